//! Clients that send a line and wait for the reply, each for at most [`PATIENCE`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::daemon::Daemon;
use crate::time::PATIENCE;

/// A client over a byte stream.
#[derive(Debug)]
pub struct Client<S: Read + Write> {
    stream: BufReader<S>,
}

impl Client<TcpStream> {
    /// Connects to a daemon over TCP.
    pub fn tcp(daemon: &Daemon) -> Client<TcpStream> {
        Client::new(connect_tcp(daemon.port))
    }

    /// Resets the connection, as if the client's machine had forgotten it.
    pub fn reset(self) {
        let socket = SockRef::from(self.stream.get_ref());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl Client<UnixStream> {
    /// Connects to a daemon over its Unix socket.
    pub fn unix(daemon: &Daemon) -> Client<UnixStream> {
        Client::unix_path(&daemon.sock)
    }

    /// Connects to the Unix socket at this path.
    pub fn unix_path(path: &Path) -> Client<UnixStream> {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client::new(stream)
    }
}

impl<S: Read + Write> Client<S> {
    /// Returns a client over a stream that is connected. The stream must have a time limit of its own.
    pub fn new(stream: S) -> Client<S> {
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a command without waiting for a reply.
    #[track_caller]
    pub fn send(&mut self, command: impl AsRef<[u8]>) {
        self.write(&[command.as_ref(), b"\n"].concat());
    }

    /// Waits for the next line of a reply. Returns it escaped, without its line end.
    #[track_caller]
    pub fn receive(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        assert_eq!(line.pop(), Some(b'\n'), "the server closed the connection");
        line.escape_ascii().to_string()
    }

    /// Sends a command, and waits for a line of reply.
    #[track_caller]
    pub fn ask(&mut self, command: impl AsRef<[u8]>) -> String {
        self.send(command);
        self.receive()
    }

    /// Sends a command to a server that may have ended, and waits for a line of reply. Returns `None` if the server has
    /// ended.
    pub fn try_ask(&mut self, command: &str) -> Option<String> {
        let line = format!("{command}\n");
        self.stream.get_mut().write_all(line.as_bytes()).ok()?;
        let mut reply = String::new();
        self.stream.read_line(&mut reply).ok()?;
        reply.strip_suffix('\n').map(str::to_owned)
    }

    /// Sends a command, and waits for all lines of its reply.
    #[track_caller]
    pub fn ask_for_all(&mut self, command: &str) -> String {
        self.send(format!("{command}\ni mark"));
        let mut answer = String::new();
        loop {
            let line = self.receive();
            if line == "0 Lock Not Locked: mark" {
                return answer;
            }
            answer += &line;
            answer.push('\n');
        }
    }

    /// Returns the server's counter of this name, from the reply to `q`.
    #[track_caller]
    pub fn counter(&mut self, name: &str) -> u64 {
        let answer = self.ask_for_all("q");
        let mut counters = answer.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = counters.find(|(key, _)| *key == name).unwrap();
        value.parse().unwrap()
    }

    /// Returns the stream, with what was read ahead.
    pub fn stream(&mut self) -> &mut BufReader<S> {
        &mut self.stream
    }

    /// Returns the connection. All replies must have been received.
    #[track_caller]
    pub fn into_inner(self) -> S {
        assert_eq!(self.stream.buffer(), b"");
        self.stream.into_inner()
    }

    /// Waits until the server closes the connection, and checks that it sent nothing more.
    #[track_caller]
    pub fn await_end(mut self) {
        let mut rest = Vec::new();
        // This may fail: the server resets the connection if it has not read all input.
        let _ = self.stream.read_to_end(&mut rest);
        assert_eq!(rest.escape_ascii().to_string(), "");
    }
}

/// A client over a WebSocket.
#[derive(Debug)]
pub struct WebSocketClient {
    socket: tungstenite::WebSocket<TcpStream>,
}

impl WebSocketClient {
    /// Connects to a daemon over a WebSocket.
    pub fn connect(daemon: &Daemon) -> WebSocketClient {
        WebSocketClient::new(connect_tcp(daemon.ws))
    }

    /// Opens a WebSocket on a stream that is connected.
    pub fn new(stream: TcpStream) -> WebSocketClient {
        let (socket, _) = tungstenite::client("ws://localhost/any/path", stream).unwrap();
        WebSocketClient { socket }
    }

    /// Returns the connection.
    pub fn into_inner(self) -> TcpStream {
        self.socket.into_inner()
    }

    /// Sends a command without waiting for a reply.
    #[track_caller]
    pub fn send(&mut self, command: &str) {
        self.socket.send(Message::text(command)).unwrap();
    }

    /// Sends a command, and waits for the message that answers it. Returns it escaped.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    /// Sends a command to a server that may have ended, and waits for the message that answers it.
    ///
    /// # Errors
    ///
    /// Any, if the server has ended.
    pub fn try_ask(&mut self, command: &str) -> tungstenite::Result<String> {
        self.socket.send(Message::text(command))?;
        let message = self.socket.read()?;
        Ok(message.into_data().escape_ascii().to_string())
    }
}

/// Sends bytes to a port of this host, and waits until the server closes the connection, whatever it replies.
pub fn knock(port: u16, bytes: &[u8]) {
    let mut stream = connect_tcp(port);
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Connects to a port of this host. Reads have a time limit.
pub fn connect_tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
