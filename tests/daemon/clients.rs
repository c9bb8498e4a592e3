//! Clients, one for each way in, that say a line and wait for the answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::SockRef;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::process::{Daemon, PATIENCE};

/// A byte stream to the daemon.
pub(crate) struct Client<S: Read + Write> {
    stream: BufReader<S>,
}

impl Client<TcpStream> {
    /// Over TCP.
    pub(crate) fn tcp(daemon: &Daemon) -> Client<TcpStream> {
        Client::new(connect(daemon.port))
    }

    /// Goes without a goodbye, as if its machine had forgotten it.
    pub(crate) fn reset(self) {
        let socket = SockRef::from(self.stream.get_ref());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl Client<UnixStream> {
    /// Over the Unix socket.
    pub(crate) fn unix(daemon: &Daemon) -> Client<UnixStream> {
        let stream = UnixStream::connect(&daemon.sock).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client::new(stream)
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn new(stream: S) -> Client<S> {
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a command, which has no answer, or not yet.
    pub(crate) fn say(&mut self, command: impl AsRef<[u8]>) {
        self.write(&[command.as_ref(), b"\n"].concat());
    }

    /// The next line of an answer, without its end.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        assert_eq!(line.pop(), Some(b'\n'), "the daemon hung up");
        line.escape_ascii().to_string()
    }

    /// Sends a command, and waits for the line that answers it.
    pub(crate) fn ask(&mut self, command: impl AsRef<[u8]>) -> String {
        self.say(command);
        self.hear()
    }

    /// As [`ask`](Client::ask), of a daemon that may have ended.
    pub(crate) fn try_ask(&mut self, command: &str) -> Option<String> {
        let line = format!("{command}\n");
        self.stream.get_mut().write_all(line.as_bytes()).ok()?;
        let mut reply = String::new();
        self.stream.read_line(&mut reply).ok()?;
        reply.strip_suffix('\n').map(str::to_owned)
    }

    /// Sends a command, and waits for all lines that answer it.
    pub(crate) fn ask_for_all(&mut self, command: &str) -> String {
        self.say(format!("{command}\ni mark"));
        let mut answer = String::new();
        loop {
            let line = self.hear();
            if line == "0 Lock Not Locked: mark" {
                return answer;
            }
            answer += &line;
            answer.push('\n');
        }
    }

    /// The counter of this name, by `q`.
    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let answer = self.ask_for_all("q");
        let mut counters = answer.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = counters.find(|(key, _)| *key == name).unwrap();
        value.parse().unwrap()
    }

    /// The connection itself. All that was answered must have been heard.
    pub(crate) fn into_inner(self) -> S {
        assert_eq!(self.stream.buffer(), b"");
        self.stream.into_inner()
    }

    /// Waits for the daemon to hang up.
    pub(crate) fn await_end(mut self) {
        let mut rest = Vec::new();
        // It may be a reset, if something was left unread.
        let _ = self.stream.read_to_end(&mut rest);
        assert_eq!(rest.escape_ascii().to_string(), "");
    }
}

/// A WebSocket to the daemon.
pub(crate) struct Web {
    socket: tungstenite::WebSocket<TcpStream>,
}

impl Web {
    pub(crate) fn connect(daemon: &Daemon) -> Web {
        Web::new(connect(daemon.ws))
    }

    pub(crate) fn new(stream: TcpStream) -> Web {
        let (socket, _) = tungstenite::client("ws://localhost/any/path", stream).unwrap();
        Web { socket }
    }

    /// The connection itself.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.socket.into_inner()
    }

    /// Sends a command, which has no answer, or not yet.
    pub(crate) fn say(&mut self, command: &str) {
        self.socket.send(Message::text(command)).unwrap();
    }

    /// Sends a command, and waits for the message that answers it.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    /// As [`ask`](Web::ask), of a daemon that may have ended.
    pub(crate) fn try_ask(&mut self, command: &str) -> tungstenite::Result<String> {
        self.socket.send(Message::text(command))?;
        let message = self.socket.read()?;
        Ok(message.into_data().escape_ascii().to_string())
    }
}

/// Sends this to a port, and waits until the daemon hangs up, whatever it answers.
pub(crate) fn knock(port: u16, bytes: &[u8]) {
    let mut stream = connect(port);
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
