//! Clients that vanish without a word: their host goes down, or somebody pulls the cable.
//!
//! The daemon runs in one network namespace, its clients are in another, and pairs of virtual interfaces join
//! the two. One pair is cut on the clients' side, one is cut and soon mended, one stays as it is. What a
//! client held must be another's within the time that the flags allow; unless it was back in time, or merely
//! idle.
//! And who runs a command under a lock, with glock, is to have stopped it by then.
//!
//! It takes `ip` (Debian's iproute2) and the right to make namespaces. Where these are missing the test is
//! skipped, and says so; `GLOCKD_NAMESPACES=required` makes that a failure.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::tempdir;
use tokio_tungstenite::tungstenite::{self, Message};

/// They have a network to themselves.
const PORT: u16 = 9999;
const WS: u16 = 9998;

/// A client that is silent for a second is asked whether it is there, three times within 15 seconds.
const FLAGS: &str = "-keepalive 1s -write-timeout 2s";
const KEEPALIVE: Duration = Duration::from_secs(1 + 15);
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a daemon without flags takes to give up a client, and a client of ours to give up the daemon.
#[cfg(feature = "glock")]
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(15 + 15);
#[cfg(feature = "glock")]
const CLIENT_KEEPALIVE: Duration = Duration::from_secs(20);

/// When the mended link is mended: two of the three questions have been lost by then.
const MENDED: Duration = Duration::from_secs(7);

/// For the kernel's timers and a busy machine.
const MARGIN: Duration = Duration::from_secs(4);

/// How long a busy client waits for the daemon before it takes the link for cut.
const SILENCE: Duration = Duration::from_secs(10);

/// Longer than anything takes on the slowest of machines: to reach it is to fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pair of interfaces of that name, with these addresses.
struct Link {
    name: &'static str,
    daemon: Ipv4Addr,
    clients: Ipv4Addr,
}

/// From the networks that are for documentation.
const LINKS: [Link; 3] = [
    Link {
        name: "cut",
        daemon: Ipv4Addr::new(192, 0, 2, 1),
        clients: Ipv4Addr::new(192, 0, 2, 2),
    },
    Link {
        name: "mended",
        daemon: Ipv4Addr::new(198, 51, 100, 1),
        clients: Ipv4Addr::new(198, 51, 100, 2),
    },
    Link {
        name: "whole",
        daemon: Ipv4Addr::new(203, 0, 113, 1),
        clients: Ipv4Addr::new(203, 0, 113, 2),
    },
];

#[test]
fn who_vanishes_holds_nothing_for_long() {
    let Some(network) = network("lines") else {
        return;
    };
    let [cut, mended, whole] = LINKS.map(|link| link.daemon);
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&network, dir.path(), FLAGS);
    let mut other = Client::new(daemon.connect());
    // They make a listing so long that no socket holds it.
    for number in 0..1000 {
        other.ask(&format!("g {number:04}{}", "x".repeat(10_000)));
    }

    let holder = |host, lock| {
        let mut client = Client::new(network.connect(host, PORT));
        assert!(client.gets(lock));
        client
    };
    let _idle = holder(cut, "idle");
    let (mut web, _) = tungstenite::client("ws://daemon/", network.connect(cut, WS)).unwrap();
    web.send(Message::text("g web")).unwrap();
    web.read().unwrap();
    let asking = keep_busy(holder(cut, "asking"), |stream| {
        let (batch, mut replies) = (
            "i x\n".repeat(100),
            vec![0; 100 * "0 Lock Not Locked: x\n".len()],
        );
        stream.get_mut().write_all(batch.as_bytes())?;
        stream.read_exact(&mut replies)
    });
    let mut reading = holder(cut, "reading");
    reading.0.get_mut().write_all(&b"d\n".repeat(1000)).unwrap();
    let reading = keep_busy(reading, |stream| stream.read_exact(&mut [0; 64 * 1024]));
    let mut mended = holder(mended, "mended");
    let mut whole = holder(whole, "whole");
    for lock in ["idle", "web", "asking", "reading", "mended", "whole"] {
        assert!(!other.gets(lock), "{lock} is not held");
    }

    let start = Instant::now();
    network.set("cut", "down");
    network.set("mended", "down");
    let mut down = true;
    let mut held = vec![
        ("idle", KEEPALIVE),
        ("web", KEEPALIVE),
        // What it has not acknowledged is given up no earlier than a keepalive would be.
        ("asking", KEEPALIVE),
        // Of what it was being sent the kernel may take some more when it sends again, as if there were progress.
        ("reading", 3 * WRITE_TIMEOUT),
    ];
    while !held.is_empty() {
        held.retain(|&(lock, limit)| {
            let free = other.gets(lock);
            let elapsed = start.elapsed();
            assert!(elapsed < limit + MARGIN, "{lock} is held after {elapsed:?}");
            if free {
                eprintln!("{lock}: free after {elapsed:?}");
            }
            !free
        });
        if down && start.elapsed() > MENDED {
            network.set("mended", "up");
            down = false;
        }
        // Nothing tells of it, so it is asked for, but not all the time.
        thread::sleep(Duration::from_millis(10));
    }
    for (client, lock) in [(&mut mended, "mended"), (&mut whole, "whole")] {
        assert!(!other.gets(lock), "{lock} is not held");
        assert_eq!(
            client.ask(&format!("r {lock}")),
            format!("1 Lock Release Success: {lock}")
        );
    }
    // Until now they were open.
    drop((asking.join().unwrap(), reading.join().unwrap()));
}

/// Who runs a command under a lock learns that it has lost it before anybody else can have it.
#[cfg(feature = "glock")]
#[test]
fn who_is_cut_off_stops_before_the_lock_is_free() {
    let Some(network) = network("glock") else {
        return;
    };
    let [cut, ..] = LINKS.map(|link| link.daemon);
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&network, dir.path(), "");
    let mut other = Client::new(daemon.connect());
    let mut holders = ["tcp://HOST:9999", "ws://HOST:9998/"].map(|server| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glock"));
        command
            .args(["--server", &server.replace("HOST", &cut.to_string())])
            .args(["run", server, "sh", "-c", "echo up; exec sleep 600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = network.clients.within(|| command.spawn()).unwrap();
        let mut up = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut up).unwrap();
        assert_eq!(up, "up\n");
        (server, output, child)
    });

    let start = Instant::now();
    network.set("cut", "down");
    for (lock, output, child) in &mut holders {
        // Its end is the end of the command.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
        let elapsed = start.elapsed();
        assert!(!other.gets(lock), "{lock} is free after {elapsed:?}");
        eprintln!("{lock}: the command was ended after {elapsed:?}");
        assert!(elapsed < CLIENT_KEEPALIVE + MARGIN, "{lock}: {elapsed:?}");
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
    for (lock, ..) in &holders {
        while !other.gets(lock) {
            let elapsed = start.elapsed();
            assert!(elapsed < DEFAULT_KEEPALIVE + MARGIN, "{lock}: {elapsed:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A network, or `None` if none can be made here.
fn network(test: &str) -> Option<Network> {
    match Network::new(test) {
        Ok(network) => Some(network),
        Err(obstacle) => {
            let required =
                env::var_os("GLOCKD_NAMESPACES").is_some_and(|value| value == "required");
            assert!(!required, "there are no namespaces: {obstacle}");
            // Not `eprintln!`, which shows nothing of a test that passes.
            let _ = writeln!(io::stderr(), "skipped, no client vanishes: {obstacle}");
            None
        }
    }
}

/// A connection that speaks lines.
struct Client<S: Read + Write>(BufReader<S>);

impl<S: Read + Write> Client<S> {
    fn new(stream: S) -> Client<S> {
        Client(BufReader::new(stream))
    }

    fn ask(&mut self, command: &str) -> String {
        let stream = self.0.get_mut();
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut reply = String::new();
        self.0.read_line(&mut reply).unwrap();
        assert_eq!(reply.pop(), Some('\n'), "the daemon hung up");
        reply
    }

    /// Whether it gets this lock.
    fn gets(&mut self, lock: &str) -> bool {
        let reply = self.ask(&format!("g {lock}"));
        let granted = reply == format!("1 Lock Get Success: {lock}");
        assert!(
            granted || reply == format!("0 Lock Get Failure: {lock}"),
            "{reply}"
        );
        granted
    }
}

/// Does something again and again in a thread of its own, until nothing comes back for a while. Returns once
/// it was done; what the thread gives back is the connection, as open as it was.
fn keep_busy(
    client: Client<TcpStream>,
    mut act: impl FnMut(&mut BufReader<TcpStream>) -> io::Result<()> + Send + 'static,
) -> JoinHandle<Client<TcpStream>> {
    let Client(mut stream) = client;
    act(&mut stream).unwrap();
    stream.get_ref().set_read_timeout(Some(SILENCE)).unwrap();
    thread::spawn(move || {
        while act(&mut stream).is_ok() {}
        Client(stream)
    })
}

/// A daemon with a network of its own. Killed when dropped.
struct Daemon<'a> {
    dir: &'a Path,
    child: Child,
}

impl Daemon<'_> {
    fn start<'a>(network: &Network, dir: &'a Path, flags: &str) -> Daemon<'a> {
        let log = File::create(dir.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_glockd"));
        command
            .args(flags.split_whitespace())
            .arg("-unix")
            .arg(dir.join("sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = network.daemon.within(|| command.spawn()).unwrap();
        Daemon { dir, child }
    }

    /// A connection that no network is needed for, as soon as the daemon listens.
    fn connect(&mut self) -> UnixStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.dir.join("sock")) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => {
                    let runs = self.child.try_wait().unwrap().is_none();
                    let log = fs::read_to_string(self.dir.join("log")).unwrap();
                    assert!(runs && Instant::now() < deadline, "{error}: {log}");
                }
            }
            thread::yield_now();
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two namespaces, joined by [`LINKS`].
struct Network {
    daemon: Namespace,
    clients: Namespace,
}

impl Network {
    fn new(test: &str) -> Result<Network, String> {
        let network = Network {
            daemon: Namespace::new(test, "daemon")?,
            clients: Namespace::new(test, "clients")?,
        };
        let (daemon, clients) = (&network.daemon.name, &network.clients.name);
        for link in LINKS {
            let name = link.name;
            ip(&format!(
                "-n {daemon} link add {name} type veth peer name {name} netns {clients}"
            ))?;
            for (namespace, address) in [(daemon, link.daemon), (clients, link.clients)] {
                ip(&format!(
                    "-n {namespace} address add {address}/24 dev {name}"
                ))?;
                ip(&format!("-n {namespace} link set {name} up"))?;
            }
        }
        Ok(network)
    }

    /// A client's connection to the daemon, by one of the links.
    fn connect(&self, host: Ipv4Addr, port: u16) -> TcpStream {
        let stream = self
            .clients
            .within(|| TcpStream::connect_timeout(&(host, port).into(), PATIENCE));
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sets a link up or down, on the clients' side.
    fn set(&self, link: &str, state: &str) {
        ip(&format!("-n {} link set {link} {state}", self.clients.name)).unwrap();
    }
}

/// A network namespace. Deleted when dropped.
struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    fn new(test: &str, role: &str) -> Result<Namespace, String> {
        let name = format!("glockd-{}-{test}-{role}", process::id());
        ip(&format!("netns add {name}"))?;
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        Ok(Namespace { name, file })
    }

    /// Does something in this namespace. Sockets and processes that it makes stay there.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.file.as_fd(), kind).unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

/// Runs `ip`. The error is what it said.
fn ip(arguments: &str) -> Result<(), String> {
    match Command::new("ip").args(arguments.split(' ')).output() {
        Err(error) => Err(format!("ip: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
