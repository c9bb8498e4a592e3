//! `glock ping`: whether the server answers, and how soon.

use std::time::Duration;

use glockd_client::Client;
use serde_json::json;
use tokio::time::sleep;

use crate::failure::Failure;
use crate::flags::{OutputFlags, seconds};
use crate::show::print;

/// Measure how soon the server answers
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock ping
      Once
  glock ping -c 10 -i 0.2
      Ten times, five a second")]
pub(crate) struct Ping {
    /// Number of pings
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Time between two pings, in seconds
    #[arg(short, long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, default_value = "1")]
    interval: Duration,
    #[command(flatten)]
    output: OutputFlags,
}

pub(crate) async fn ping(client: &Client, args: &Ping) -> Result<u8, Failure> {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let mut times = Vec::new();
    for round in 0..args.count {
        if round > 0 {
            sleep(args.interval).await;
        }
        let time = client.ping().await?;
        times.push(time);
        match args.output.json {
            true => print(&json!({"ms": ms(time)}).to_string())?,
            false => print(&format!("{}: {:.3} ms", client.endpoint(), ms(time)))?,
        }
    }
    if let (Some(least), Some(most)) = (times.iter().min(), times.iter().max())
        && args.count > 1
        && !args.output.json
    {
        let mean = times.iter().sum::<Duration>() / args.count;
        let (least, mean, most) = (ms(*least), ms(mean), ms(*most));
        print(&format!(
            "least {least:.3} ms, mean {mean:.3} ms, most {most:.3} ms"
        ))?;
    }
    Ok(0)
}
