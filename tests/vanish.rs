//! Networks that fail without a word: a host goes down, somebody pulls the cable, a firewall forgets a connection.
//!
//! The daemon runs in one network namespace, its clients are in another, and pairs of virtual interfaces join
//! the two. What a client held must be another's within the time that the flags allow; unless it was back in time, or
//! merely idle. And a command that glock runs under a lock must be dead before the lock is another's, whichever
//! direction fails, and whenever.
//!
//! It takes `ip` (Debian's iproute2) and the right to make namespaces.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
#[cfg(feature = "glock")]
use std::process::ChildStdout;
use std::process::{self, Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[cfg(feature = "glock")]
use rustix::process::{Pid, Signal, kill_process};
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

/// When the mended link is mended: two of the three questions have been lost by then.
const MENDED: Duration = Duration::from_secs(7);

/// For the kernel's timers and a busy machine.
const MARGIN: Duration = Duration::from_secs(4);

/// How long a busy client waits for the daemon before it takes the link for cut.
const SILENCE: Duration = Duration::from_secs(10);

/// Longer than anything takes on the slowest of machines: to reach it is to fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pair of interfaces of that name, with these addresses.
#[derive(Clone)]
struct Link {
    name: String,
    daemon: Ipv4Addr,
    clients: Ipv4Addr,
}

impl Link {
    /// The link of this number: each has a small network of its own, from those that are for documentation.
    fn new(number: u8, name: String) -> Link {
        let [daemon, clients] = [1, 2].map(|host| Ipv4Addr::new(192, 0, 2, 4 * number + host));
        Link {
            name,
            daemon,
            clients,
        }
    }
}

/// What of a link fails.
#[cfg(feature = "glock")]
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The interface of the clients goes down.
    Both,
    /// What clients send is lost.
    ToDaemon,
    /// What the daemon sends is lost.
    ToClients,
}

#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn client_that_vanishes_holds_nothing_for_long() {
    let mut numbers = 0..;
    let links =
        ["cut", "mended", "whole"].map(|name| Link::new(numbers.next().unwrap(), name.to_owned()));
    let network = Network::new("lines", &links);
    let [cut, mended, whole] = links.map(|link| link.daemon);
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

/// Time between the death of a command and the moment at which its lock may be another's.
#[cfg(feature = "glock")]
const SPARE: Duration = Duration::from_secs(2);

/// What the daemon takes with default flags to give up a client: longest time after it last heard from it.
#[cfg(feature = "glock")]
const DEFAULT_PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that glock runs, in the clients' network.
#[cfg(feature = "glock")]
struct Holder {
    lock: String,
    glock: Child,
    /// Ends when nothing of the command lives any more.
    output: BufReader<ChildStdout>,
}

#[cfg(feature = "glock")]
impl Holder {
    /// Starts a command under a lock. Returns when it runs.
    fn start(network: &Network, lock: String, server: &str, script: &str) -> Holder {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glock"));
        command
            .args(["--server", server, "run", &lock, "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut glock = network.clients.within(|| command.spawn()).unwrap();
        let mut output = BufReader::new(glock.stdout.take().unwrap());
        let mut up = String::new();
        output.read_line(&mut up).unwrap();
        assert_eq!(up, "up\n", "{lock}");
        Holder {
            lock,
            glock,
            output,
        }
    }

    /// Waits until nothing of the command lives any more.
    fn wait_for_end(mut self) -> (Instant, Child) {
        assert_eq!(self.output.read_to_end(&mut Vec::new()).unwrap(), 0);
        (Instant::now(), self.glock)
    }
}

/// A command that obeys SIGTERM.
#[cfg(feature = "glock")]
const OBEDIENT: &str = "echo up; exec sleep 600";

/// A command that SIGKILL alone ends.
#[cfg(feature = "glock")]
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 1; done";

/// Waits in line for a lock, over a connection that no network is needed for. Returns when it was granted.
#[cfg(feature = "glock")]
fn wait_for_lock(stream: UnixStream, lock: &str) -> Instant {
    stream.set_read_timeout(None).unwrap();
    let reply = Client::new(stream).ask(&format!("gw 600000 {lock}"));
    assert_eq!(reply, format!("1 Lock Get Success: {lock}"));
    Instant::now()
}

/// A command that glock runs is dead before its lock is another's: whenever the network fails, counted from when the
/// command started; in whichever direction; over TCP and WebSocket; whether the command obeys SIGTERM or not.
#[cfg(feature = "glock")]
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn command_is_dead_before_its_lock_is_handed_on() {
    check_that_commands_die_in_time("glock", "", DEFAULT_PEER_TIMEOUT, &[1, 5, 8, 13, 21, 28]);
}

#[cfg(feature = "glock")]
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn command_is_dead_in_time_with_short_limits_too() {
    let peer_timeout = Duration::from_secs(5 + 15);
    check_that_commands_die_in_time(
        "short",
        "-keepalive 5s -write-timeout 2s",
        peer_timeout,
        &[1, 3, 9],
    );
}

#[cfg(feature = "glock")]
fn check_that_commands_die_in_time(
    test: &str,
    flags: &str,
    peer_timeout: Duration,
    phases: &[u64],
) {
    let mut cuts = Vec::new();
    for &phase in phases {
        for cut in [Cut::Both, Cut::ToDaemon, Cut::ToClients] {
            let link = Link::new(cuts.len() as u8, format!("link{}", cuts.len()));
            cuts.push((Duration::from_secs(phase), cut, link));
        }
    }
    let links: Vec<Link> = cuts.iter().map(|(.., link)| link.clone()).collect();
    let network = Network::new(test, &links);
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&network, dir.path(), flags);
    daemon.connect();
    let daemon = &daemon;
    let network = &network;
    // What the daemon sent last, in answer to a client that it still heard, it waits to have acknowledged.
    let heartbeat = peer_timeout / 6;
    thread::scope(|scope| {
        for (phase, cut, link) in &cuts {
            let host = link.daemon;
            let mut holders = Vec::new();
            for server in [format!("tcp://{host}:{PORT}"), format!("ws://{host}:{WS}/")] {
                for (manner, script) in [("obedient", OBEDIENT), ("stubborn", STUBBORN)] {
                    let lock = format!("{server} {manner} {phase:?} {cut:?}");
                    holders.push(Holder::start(network, lock, &server, script));
                }
            }
            let waiters = holders.iter().map(|holder| {
                let (stream, lock) = (daemon.connect_again(), holder.lock.clone());
                scope.spawn(move || wait_for_lock(stream, &lock))
            });
            let waiters: Vec<_> = waiters.collect();
            // From here on the network fails by itself, while the next holders start.
            let start = Instant::now();
            let failed = scope.spawn(move || {
                thread::sleep(*phase);
                network.cut(link, *cut);
                Instant::now()
            });
            scope.spawn(move || {
                let ends: Vec<_> = holders
                    .into_iter()
                    .map(|holder| {
                        let lock = holder.lock.clone();
                        let end = thread::spawn(|| holder.wait_for_end());
                        (lock, end)
                    })
                    .collect();
                let failed = failed.join().unwrap();
                for ((lock, end), waiter) in ends.into_iter().zip(waiters) {
                    let (dead, mut glock) = end.join().unwrap();
                    let granted = waiter.join().unwrap();
                    let (dead_after, granted_after) = (dead - start, granted - start);
                    eprintln!(
                        "{lock}: dead after {dead_after:?}, handed on after {granted_after:?}"
                    );
                    assert!(
                        dead > failed,
                        "{lock}: the command died before the network failed"
                    );
                    assert!(
                        dead + SPARE <= granted,
                        "{lock}: dead after {dead_after:?}, handed on after {granted_after:?}"
                    );
                    assert!(
                        granted < failed + peer_timeout + heartbeat + MARGIN,
                        "{lock}: cut after {:?}, handed on after {granted_after:?}",
                        failed - start
                    );
                    assert_eq!(glock.wait().unwrap().code(), Some(3), "{lock}");
                }
            });
        }
    });
}

/// A server that stands still answers nobody, so its clients cannot know that it still keeps their locks.
#[cfg(feature = "glock")]
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn command_is_dead_before_a_stopped_server_hands_its_lock_on() {
    let link = Link::new(0, "only".to_owned());
    let network = Network::new("stopped-server", std::slice::from_ref(&link));
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&network, dir.path(), "");
    daemon.connect();
    let host = link.daemon;
    let servers = [format!("tcp://{host}:{PORT}"), format!("ws://{host}:{WS}/")];
    let holders: Vec<_> = servers
        .iter()
        .map(|server| Holder::start(&network, server.clone(), server, STUBBORN))
        .collect();
    let waiters: Vec<_> = servers
        .iter()
        .map(|lock| {
            let (stream, lock) = (daemon.connect_again(), lock.clone());
            thread::spawn(move || wait_for_lock(stream, &lock))
        })
        .collect();
    daemon.signal(Signal::STOP);
    let ends: Vec<_> = holders
        .into_iter()
        .map(|holder| holder.wait_for_end())
        .collect();
    daemon.signal(Signal::CONT);
    for ((dead, mut glock), waiter) in ends.into_iter().zip(waiters) {
        assert!(dead < waiter.join().unwrap());
        assert_eq!(glock.wait().unwrap().code(), Some(3));
    }
}

/// Over TCP the kernel of a stopped client answers, and so the lock stays. A WebSocket has to answer by itself.
#[cfg(feature = "glock")]
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn stopped_client_keeps_its_lock_over_tcp_and_learns_of_its_loss_over_websocket() {
    let link = Link::new(0, "only".to_owned());
    let network = Network::new("stopped-client", std::slice::from_ref(&link));
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&network, dir.path(), "");
    let mut other = Client::new(daemon.connect());
    let host = link.daemon;
    let tcp = format!("tcp://{host}:{PORT}");
    let mut tcp = Holder::start(&network, "tcp".to_owned(), &tcp, OBEDIENT);
    let ws = format!("ws://{host}:{WS}/");
    let ws = Holder::start(&network, "ws".to_owned(), &ws, OBEDIENT);
    for holder in [&tcp, &ws] {
        signal(&holder.glock, Signal::STOP);
    }
    let start = Instant::now();
    while !other.gets("ws") {
        let elapsed = start.elapsed();
        assert!(elapsed < DEFAULT_PEER_TIMEOUT + MARGIN, "{elapsed:?}");
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep((DEFAULT_PEER_TIMEOUT + MARGIN).saturating_sub(start.elapsed()));
    assert!(!other.gets("tcp"));

    let start = Instant::now();
    for holder in [&tcp, &ws] {
        signal(&holder.glock, Signal::CONT);
    }
    let (dead, mut glock) = ws.wait_for_end();
    assert!(dead - start < MARGIN, "{:?}", dead - start);
    assert_eq!(glock.wait().unwrap().code(), Some(3));
    // Longer than a connection lives whose server is silent.
    thread::sleep(MARGIN);
    assert!(!other.gets("tcp"));
    assert_eq!(tcp.glock.try_wait().unwrap(), None);
    signal(&tcp.glock, Signal::TERM);
    tcp.glock.wait().unwrap();
}

#[cfg(feature = "glock")]
fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
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

    /// Another connection like that.
    #[cfg(feature = "glock")]
    fn connect_again(&self) -> UnixStream {
        UnixStream::connect(self.dir.join("sock")).unwrap()
    }

    #[cfg(feature = "glock")]
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two namespaces, joined by links.
struct Network {
    daemon: Namespace,
    clients: Namespace,
}

impl Network {
    fn new(test: &str, links: &[Link]) -> Network {
        let network = Network {
            daemon: Namespace::new(test, "daemon"),
            clients: Namespace::new(test, "clients"),
        };
        let (daemon, clients) = (&network.daemon.name, &network.clients.name);
        for link in links {
            let name = &link.name;
            ip(&format!(
                "-n {daemon} link add {name} type veth peer name {name} netns {clients}"
            ));
            for (namespace, address) in [(daemon, link.daemon), (clients, link.clients)] {
                ip(&format!(
                    "-n {namespace} address add {address}/30 dev {name}"
                ));
                ip(&format!("-n {namespace} link set {name} up"));
            }
        }
        network
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
        ip(&format!("-n {} link set {link} {state}", self.clients.name));
    }

    /// Lets a link fail, in one direction or both.
    #[cfg(feature = "glock")]
    fn cut(&self, link: &Link, cut: Cut) {
        let (sender, receiver) = match cut {
            Cut::Both => return self.set(&link.name, "down"),
            Cut::ToDaemon => (&self.clients, link.daemon),
            Cut::ToClients => (&self.daemon, link.clients),
        };
        // Sent to a card that is not there, it is lost without a word.
        ip(&format!(
            "-n {} neighbour replace {receiver} lladdr 02:00:00:00:00:01 dev {} nud permanent",
            sender.name, link.name
        ));
    }
}

/// A network namespace. Deleted when dropped.
struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    fn new(test: &str, role: &str) -> Namespace {
        let name = format!("glockd-{}-{test}-{role}", process::id());
        ip(&format!("netns add {name}"));
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        Namespace { name, file }
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
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
    }
}

/// Runs `ip`, which is to do what it is told.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("ip, of iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}
