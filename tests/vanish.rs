//! Networks that fail silently: a host goes down, a cable is pulled, a firewall forgets a connection.
//!
//! The daemon runs in one network namespace, its clients in another, and pairs of virtual interfaces join the two. The
//! locks of a client must be free within the time that the flags allow, unless the client was back in time or merely
//! idle. And a command that glock runs under a lock must be dead before another client gets the lock, whichever
//! direction fails, and whenever.
//!
//! The tests need `ip` (Debian's iproute2) and the right to create namespaces.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{self, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use glockd_test_support::{Client, PATIENCE, Process, SocketDaemon, binary};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::tempdir;
use tokio_tungstenite::tungstenite::{self, Message};

/// Ports of the daemon, which has a network of its own.
const PORT: u16 = 9999;
const WS: u16 = 9998;

/// A client that is silent for a second is probed, three times within 15 seconds.
const FLAGS: &str = "-keepalive 1s -write-timeout 2s";
const KEEPALIVE: Duration = Duration::from_secs(1 + 15);
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which the mended link works again. Two of the three probes are lost by then.
const MENDED: Duration = Duration::from_secs(7);

/// Tolerance for the kernel's timers and a busy machine.
const MARGIN: Duration = Duration::from_secs(4);

/// Silence after which a busy client takes the link for cut.
const SILENCE: Duration = Duration::from_secs(10);

/// A pair of interfaces of one name, and their addresses.
#[derive(Clone)]
struct Link {
    name: String,
    daemon: Ipv4Addr,
    clients: Ipv4Addr,
}

impl Link {
    /// Returns the link of this number. Each has a small network of its own, from the range for documentation.
    fn new(number: u8, name: String) -> Link {
        let [daemon, clients] = [1, 2].map(|host| Ipv4Addr::new(192, 0, 2, 4 * number + host));
        Link {
            name,
            daemon,
            clients,
        }
    }
}

/// The part of a link that fails.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The interface of the clients goes down.
    Both,
    /// Packets from the clients are lost.
    ToDaemon,
    /// Packets from the daemon are lost.
    ToClients,
}

#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn vanished_client_loses_its_locks_in_time() {
    let mut numbers = 0..;
    let links =
        ["cut", "mended", "whole"].map(|name| Link::new(numbers.next().unwrap(), name.to_owned()));
    let network = Network::new("lines", &links);
    let [cut, mended, whole] = links.map(|link| link.daemon);
    let dir = tempdir().unwrap();
    let daemon = start_daemon(&network, dir.path(), FLAGS);
    let mut other = Client::new(daemon.connect());
    // Locks for a listing that is longer than the socket buffers.
    for number in 0..1000 {
        other.ask(format!("g {number:04}{}", "x".repeat(10_000)));
    }

    let holder = |host, lock| {
        let mut client = Client::new(network.connect(host, PORT));
        assert!(gets(&mut client, lock));
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
    reading.write(&b"d\n".repeat(1000));
    let reading = keep_busy(reading, |stream| stream.read_exact(&mut [0; 64 * 1024]));
    let mut mended = holder(mended, "mended");
    let mut whole = holder(whole, "whole");
    for lock in ["idle", "web", "asking", "reading", "mended", "whole"] {
        assert!(!gets(&mut other, lock), "{lock} is not held");
    }

    let start = Instant::now();
    network.set("cut", "down");
    network.set("mended", "down");
    let mut down = true;
    let mut held = vec![
        ("idle", KEEPALIVE),
        ("web", KEEPALIVE),
        // Unacknowledged data does not end a connection sooner than the keepalive would.
        ("asking", KEEPALIVE),
        // When the kernel retransmits, it may accept some more data, which looks like progress.
        ("reading", 3 * WRITE_TIMEOUT),
    ];
    while !held.is_empty() {
        held.retain(|&(lock, limit)| {
            let free = gets(&mut other, lock);
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
        // Nothing signals that a lock is free, so this polls, with pauses.
        thread::sleep(Duration::from_millis(10));
    }
    for (client, lock) in [(&mut mended, "mended"), (&mut whole, "whole")] {
        assert!(!gets(&mut other, lock), "{lock} is not held");
        assert_eq!(
            client.ask(format!("r {lock}")),
            format!("1 Lock Release Success: {lock}")
        );
    }
    // Both connections stayed open until here.
    drop((asking.join().unwrap(), reading.join().unwrap()));
}

/// Minimum time between the death of a command and the grant of its lock to another client.
const SPARE: Duration = Duration::from_secs(2);

/// Maximum time, with default flags, after which the daemon disconnects a client that it does not hear from.
const DEFAULT_PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that glock runs under a lock, in the clients' network.
struct Holder {
    lock: String,
    glock: Process,
    /// Ends when all processes of the command have ended.
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts a command under a lock, and waits until it runs.
    fn start(network: &Network, lock: String, server: &str, script: &str) -> Holder {
        let mut command = Command::new(binary("glock"));
        command
            .args(["--server", server, "run", &lock, "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut glock = network.clients.within(|| Process::start(&mut command));
        let mut output = BufReader::new(glock.child().stdout.take().unwrap());
        let mut up = String::new();
        output.read_line(&mut up).unwrap();
        assert_eq!(up, "up\n", "{lock}");
        Holder {
            lock,
            glock,
            output,
        }
    }

    /// Waits until all processes of the command have ended.
    fn wait_for_end(mut self) -> (Instant, Process) {
        assert_eq!(self.output.read_to_end(&mut Vec::new()).unwrap(), 0);
        (Instant::now(), self.glock)
    }
}

/// A command that obeys SIGTERM.
const OBEDIENT: &str = "echo up; exec sleep 600";

/// A command that only SIGKILL ends.
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 1; done";

/// Waits for a lock, over the Unix socket. Returns the time of the grant.
fn wait_for_lock(stream: UnixStream, lock: &str) -> Instant {
    stream.set_read_timeout(None).unwrap();
    let reply = Client::new(stream).ask(format!("gw 600000 {lock}"));
    assert_eq!(reply, format!("1 Lock Get Success: {lock}"));
    Instant::now()
}

/// Whenever the network fails, counted from the start of the command; in whichever direction; over TCP and WebSocket;
/// whether the command obeys SIGTERM or not.
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn command_is_dead_before_another_client_gets_its_lock() {
    check_that_commands_die_in_time("glock", "", DEFAULT_PEER_TIMEOUT, &[1, 5, 8, 13, 21, 28]);
}

#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn command_is_dead_in_time_with_short_limits() {
    let peer_timeout = Duration::from_secs(5 + 15);
    check_that_commands_die_in_time(
        "short",
        "-keepalive 5s -write-timeout 2s",
        peer_timeout,
        &[1, 3, 9],
    );
}

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
    let daemon = start_daemon(&network, dir.path(), flags);
    let (daemon, network) = (&daemon, &network);
    // The daemon may have answered a ping just before the failure, and then waits for the acknowledgement.
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
                let (stream, lock) = (daemon.connect(), holder.lock.clone());
                scope.spawn(move || wait_for_lock(stream, &lock))
            });
            let waiters: Vec<_> = waiters.collect();
            // From here on, the network fails by itself, while the next holders start.
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
                    assert_eq!(glock.await_end().code(), Some(3), "{lock}");
                }
            });
        }
    });
}

/// A stopped server answers no client, so its clients cannot know that it still keeps their locks.
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn command_is_dead_before_a_stopped_server_continues() {
    let link = Link::new(0, "only".to_owned());
    let network = Network::new("stopped-server", std::slice::from_ref(&link));
    let dir = tempdir().unwrap();
    let daemon = start_daemon(&network, dir.path(), "");
    let host = link.daemon;
    let servers = [format!("tcp://{host}:{PORT}"), format!("ws://{host}:{WS}/")];
    let holders: Vec<_> = servers
        .iter()
        .map(|server| Holder::start(&network, server.clone(), server, STUBBORN))
        .collect();
    let waiters: Vec<_> = servers
        .iter()
        .map(|lock| {
            let (stream, lock) = (daemon.connect(), lock.clone());
            thread::spawn(move || wait_for_lock(stream, &lock))
        })
        .collect();
    daemon.process().signal(Signal::STOP);
    let ends: Vec<_> = holders
        .into_iter()
        .map(|holder| holder.wait_for_end())
        .collect();
    daemon.process().signal(Signal::CONT);
    for ((dead, mut glock), waiter) in ends.into_iter().zip(waiters) {
        assert!(dead < waiter.join().unwrap());
        assert_eq!(glock.await_end().code(), Some(3));
    }
}

/// Over TCP, the kernel of a stopped client answers the probes, so the lock stays. A WebSocket client must answer by
/// itself.
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn stopped_client_keeps_its_lock_over_tcp_and_loses_it_over_websocket() {
    let link = Link::new(0, "only".to_owned());
    let network = Network::new("stopped-client", std::slice::from_ref(&link));
    let dir = tempdir().unwrap();
    let daemon = start_daemon(&network, dir.path(), "");
    let mut other = Client::new(daemon.connect());
    let host = link.daemon;
    let tcp = format!("tcp://{host}:{PORT}");
    let mut tcp = Holder::start(&network, "tcp".to_owned(), &tcp, OBEDIENT);
    let ws = format!("ws://{host}:{WS}/");
    let ws = Holder::start(&network, "ws".to_owned(), &ws, OBEDIENT);
    for holder in [&tcp, &ws] {
        holder.glock.signal(Signal::STOP);
    }
    let start = Instant::now();
    while !gets(&mut other, "ws") {
        let elapsed = start.elapsed();
        assert!(elapsed < DEFAULT_PEER_TIMEOUT + MARGIN, "{elapsed:?}");
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep((DEFAULT_PEER_TIMEOUT + MARGIN).saturating_sub(start.elapsed()));
    assert!(!gets(&mut other, "tcp"));

    let start = Instant::now();
    for holder in [&tcp, &ws] {
        holder.glock.signal(Signal::CONT);
    }
    let (dead, mut glock) = ws.wait_for_end();
    assert!(dead - start < MARGIN, "{:?}", dead - start);
    assert_eq!(glock.await_end().code(), Some(3));
    // Longer than the client takes to declare a silent server lost.
    thread::sleep(MARGIN);
    assert!(!gets(&mut other, "tcp"));
    assert!(tcp.glock.is_running());
    tcp.glock.signal(Signal::TERM);
    tcp.glock.await_end();
}

/// Asks for a lock. Returns true if it was granted.
fn gets<S: Read + Write>(client: &mut Client<S>, lock: &str) -> bool {
    let reply = client.ask(format!("g {lock}"));
    let granted = reply == format!("1 Lock Get Success: {lock}");
    assert!(
        granted || reply == format!("0 Lock Get Failure: {lock}"),
        "{reply}"
    );
    granted
}

/// Calls `act` once, and then again and again in a thread of its own, until it fails because the server is silent. The
/// thread returns the connection, which is still open.
fn keep_busy(
    mut client: Client<TcpStream>,
    mut act: impl FnMut(&mut BufReader<TcpStream>) -> io::Result<()> + Send + 'static,
) -> JoinHandle<Client<TcpStream>> {
    act(client.stream()).unwrap();
    let stream = client.stream().get_ref();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    thread::spawn(move || {
        while act(client.stream()).is_ok() {}
        client
    })
}

/// Starts a daemon in its own network.
fn start_daemon(network: &Network, dir: &Path, flags: &str) -> SocketDaemon {
    let mut command = Command::new(binary("glockd"));
    command.args(flags.split_whitespace());
    network.daemon.within(|| SocketDaemon::start(command, dir))
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

    /// Connects from the clients' network to the daemon, over one of the links.
    fn connect(&self, host: Ipv4Addr, port: u16) -> TcpStream {
        let stream = self
            .clients
            .within(|| TcpStream::connect_timeout(&(host, port).into(), PATIENCE));
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sets the clients' side of a link up or down.
    fn set(&self, link: &str, state: &str) {
        ip(&format!("-n {} link set {link} {state}", self.clients.name));
    }

    /// Lets a link fail, in one direction or both.
    fn cut(&self, link: &Link, cut: Cut) {
        let (sender, receiver) = match cut {
            Cut::Both => return self.set(&link.name, "down"),
            Cut::ToDaemon => (&self.clients, link.daemon),
            Cut::ToClients => (&self.daemon, link.clients),
        };
        // Packets to an interface that does not exist are lost silently.
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

    /// Calls `act` in this namespace. The sockets and processes that it creates stay there.
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

/// Runs `ip`, which must succeed.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("ip, of iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}
