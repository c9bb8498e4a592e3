//! Scripts with labelled clients, and their transcripts.
//!
//! Lines of a script:
//!
//! | line | meaning |
//! | --- | --- |
//! | `A: COMMAND` | client `A` connects if it is new, sends a command (`\xNN` and the like are bytes), and receives its reply |
//! | `+ A` | client `A` connects |
//! | `- A` | client `A` closes its connection; the script continues when the server has noticed |
//! | `A! COMMAND` | client `A` sends a command, and receives what is answered at once; it may be left waiting |
//! | `A?` | client `A` receives what is answered after its wait |
//!
//! In a transcript, `A< …` is a line of a reply, as escaped bytes. `<A>` stands for an address, `TOKEN` for a fencing
//! token and `MS` for the age of a claim.

use std::collections::BTreeMap;

use glockd::{Limits, Policy};

use glockd_test_support::within;

use crate::client::Client;
use crate::server::{TestServer, Via};

/// Runs a script over every transport, and compares the transcripts with the snapshot. The script has only documented
/// commands, so its transcript is the same without the extensions.
pub(crate) async fn check(snapshot: &str, policy: Policy, script: &str) {
    let policies = [
        policy,
        Policy {
            extensions: false,
            ..policy
        },
    ];
    check_with(snapshot, &policies, script).await;
}

/// Runs a script over every transport and with each of these policies, which must make no difference.
pub(crate) async fn check_with(snapshot: &str, policies: &[Policy], script: &str) {
    let mut first = None;
    for &policy in policies {
        for via in Via::ALL {
            let transcript = within(transcript(via, policy, script)).await;
            let first = first.get_or_insert_with(|| transcript.clone());
            assert_eq!(transcript, *first, "{via:?} differs with {policy:?}");
        }
    }
    pin(snapshot, &first.unwrap());
}

/// Compares a text with a snapshot.
pub(crate) fn pin(snapshot: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(snapshot, text));
}

/// One run of a script over one transport.
pub(crate) async fn transcript(via: Via, policy: Policy, script: &str) -> String {
    let mut run = Run::start(via, policy).await;
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        run.step(line).await;
    }
    // A WebSocket client that is connected but does not read would delay the end of the server.
    drop((run.clients, run.control));
    run.server.stop().await;
    run.transcript
}

struct Run {
    via: Via,
    server: TestServer,
    /// A client that sees when others have disconnected. It and its commands are subtracted from the statistics.
    control: Client,
    clients: BTreeMap<String, Client>,
    /// The label of each address so far.
    labels: Vec<(String, String)>,
    asked: u64,
    marks: u64,
    pings: u64,
    transcript: String,
}

impl Run {
    async fn start(via: Via, policy: Policy) -> Run {
        let mut server = TestServer::start(policy, Limits::default()).await;
        let control = server.connect(Via::Memory).await;
        Run {
            via,
            server,
            control,
            clients: BTreeMap::new(),
            labels: Vec::new(),
            asked: 0,
            marks: 0,
            pings: 0,
            transcript: String::new(),
        }
    }

    async fn step(&mut self, line: &str) {
        self.transcript += &format!("{line}\n");
        if let Some(label) = line.strip_prefix("+ ") {
            self.connect(label).await;
        } else if let Some(label) = line.strip_prefix("- ") {
            drop(self.clients.remove(label).expect("a client that is there"));
            let left = self.clients.len() as u64 + 1;
            while self.connections().await != left {}
        } else {
            let end = line.find([':', '!', '?']).expect("a label and a command");
            let (label, command) = line.split_at(end);
            let (how, command) = command.split_at(1);
            if !self.clients.contains_key(label) {
                self.connect(label).await;
            }
            let command = unescape(command.strip_prefix(' ').unwrap_or(command));
            let client = self.clients.get_mut(label).unwrap();
            // Counted after the reply: `q` runs before its mark.
            let (reply, marks, pings) = match how {
                ":" => {
                    let (reply, marks) = client.ask(&command).await;
                    (reply, marks, 0)
                }
                "!" => (client.begin(&command).await, 0, 1),
                _ => (client.await_rest().await, 1, 0),
            };
            let reply = self.normalise(&reply);
            self.marks += marks;
            self.pings += pings;
            for line in reply.split_inclusive(|&byte| byte == b'\n') {
                let line = self.label(mask(line).escape_ascii().to_string());
                self.transcript += &format!("{label}< {line}\n");
            }
        }
    }

    async fn connect(&mut self, label: &str) {
        let client = self.server.connect(self.via).await;
        self.labels
            .push((client.address.clone(), format!("<{label}>")));
        self.clients.insert(label.to_owned(), client);
        // The server accepts a stream a moment after the client is connected.
        let all = self.clients.len() as u64 + 1;
        while self.connections().await != all {}
    }

    fn label(&self, mut line: String) -> String {
        for (address, label) in &self.labels {
            line = line.replace(address, label);
        }
        line
    }

    /// Subtracts from the statistics what this runner has caused itself.
    fn normalise(&self, reply: &[u8]) -> Vec<u8> {
        let line = |line: &[u8]| {
            let own = [
                (&b"command_i: "[..], self.marks),
                (b"command_q: ", self.asked),
                (b"command_ping: ", self.pings),
                (b"connections: ", 1),
            ];
            for (key, own) in own {
                if let Some(value) = line.strip_prefix(key) {
                    let value: u64 = str::from_utf8(value.trim_ascii_end())
                        .unwrap()
                        .parse()
                        .unwrap();
                    if value == own && key == b"command_ping: " {
                        return Vec::new();
                    }
                    return [key, format!("{}\n", value - own).as_bytes()].concat();
                }
            }
            line.to_vec()
        };
        reply
            .split_inclusive(|&byte| byte == b'\n')
            .flat_map(line)
            .collect()
    }

    async fn connections(&mut self) -> u64 {
        let (reply, marks) = self.control.ask(b"q").await;
        self.asked += 1;
        self.marks += marks;
        let reply = String::from_utf8(reply).unwrap();
        let value = reply
            .lines()
            .find_map(|line| line.strip_prefix("connections: "));
        value.unwrap().parse().unwrap()
    }
}

/// Replaces what differs from run to run by placeholders.
fn mask(line: &[u8]) -> Vec<u8> {
    let Ok(text) = str::from_utf8(line) else {
        return line.to_vec();
    };
    if let Some((token, rest)) = text.split_once(" Lock Fence: ")
        && token.parse::<u64>().is_ok_and(|token| token < 1 << 63)
    {
        return format!("TOKEN Lock Fence: {rest}").into();
    }
    let fields: Vec<&str> = text.splitn(5, ' ').collect();
    if let [role @ ("x" | "s" | "xw" | "sw"), address, ms, token, name] = fields[..] {
        let ms: u64 = ms.parse().unwrap();
        assert!(ms < 60_000, "{text}");
        let token = match token.parse::<u64>().unwrap() {
            0 => "0",
            token => {
                assert!(token < 1 << 63, "{text}");
                "TOKEN"
            }
        };
        return format!("{role} {address} MS {token} {name}").into();
    }
    line.to_vec()
}

/// Replaces `\t \v \f \r \n \\ \xNN` in a script by the bytes that they mean.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (&kind, after) = rest.split_first().expect("something escaped");
        rest = after;
        bytes.push(match kind {
            b't' => b'\t',
            b'v' => 0x0B,
            b'f' => 0x0C,
            b'r' => b'\r',
            b'n' => b'\n',
            b'\\' => b'\\',
            b'x' => {
                let (digits, after) = rest.split_at(2);
                rest = after;
                u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap()
            }
            other => panic!("\\{} stands for nothing", char::from(other)),
        });
    }
    bytes
}
