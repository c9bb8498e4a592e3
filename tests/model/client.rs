//! A client that does what its random numbers say, through one connection after the other.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::connection::{Command, Connection, World};
use crate::history::{Act, Lock, NAMES};
use crate::wire::Via;

/// How many commands are sent together, at most.
const BATCH: usize = 8;

pub(crate) struct Client {
    world: Arc<World>,
    random: Random,
    pub(crate) connection: Connection,
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By closing its sending side behind its last commands, and waiting for the server to close.
    Finish,
    /// Without a word, once all is answered.
    Vanish,
    /// Without a word, while commands are under way.
    BreakOff,
}

impl Client {
    pub(crate) async fn connect(world: &Arc<World>, via: Via, seed: u64, number: u64) -> Client {
        Client {
            world: Arc::clone(world),
            connection: Connection::open(world, via).await,
            random: Random::new(seed, number),
        }
    }

    /// Does so many things. Who is polite never goes before all is answered.
    pub(crate) async fn act(mut self, times: usize, polite: bool) -> Client {
        for _ in 0..times {
            match self.random.below(20) {
                0 => self.reconnect(polite).await,
                1 => self.visit().await,
                _ => {
                    let commands = self.commands();
                    self.connection.ask(commands).await;
                }
            }
        }
        self
    }

    /// Goes for good.
    pub(crate) async fn leave(mut self) {
        self.reconnect(false).await;
        let commands = self.commands();
        self.connection.finish(commands).await;
    }

    /// Ends its connection in some way, and goes on with another, by which it sees when the end has come.
    async fn reconnect(&mut self, polite: bool) {
        let next = Connection::open(&self.world, self.random.of(&Via::ALL)).await;
        let commands = self.commands();
        let last = std::mem::replace(&mut self.connection, next);
        let ends = [End::Finish, End::Vanish, End::BreakOff];
        let answers = match self.random.of(&ends[..if polite { 2 } else { 3 }]) {
            End::Finish => return last.finish(commands).await,
            End::Vanish => commands.len(),
            End::BreakOff => self.random.below(commands.len()),
        };
        let reset = self.random.of(&[false, true]);
        let gone = last.vanish(commands, answers, reset).await;
        // It is gone from the register once everything that it held is free.
        let who = Command::Who(Some(gone.number));
        while !self.connection.ask(vec![who]).await.is_empty() {}
        gone.note(&self.world);
    }

    /// Knocks on a door, and is gone.
    async fn visit(&mut self) {
        let doors = &self.world.doors;
        let handshake = b"GET / HTTP/1.1\r\nHost: somewhere\r\n";
        let (door, said) = match self.random.below(2) {
            0 => (doors.tcp, 0),
            _ => (doors.websocket, self.random.below(handshake.len())),
        };
        let mut stream = TcpStream::connect(door).await.unwrap();
        stream.write_all(&handshake[..said]).await.unwrap();
        if self.random.of(&[false, true]) {
            let socket = SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }

    fn commands(&mut self) -> Vec<Command> {
        let most = self.random.of(&[1, BATCH]);
        (0..=self.random.below(most))
            .map(|_| self.command())
            .collect()
    }

    fn command(&mut self) -> Command {
        match self.random.below(100) {
            0..90 => self.lock_command(),
            90..94 => Command::List {
                shared: self.random.of(&[false, true]),
            },
            94..96 => Command::Who(Some(self.connection.number)),
            96 => Command::Iam(self.connection.number),
            97 => Command::Me,
            98 => Command::Statistics,
            _ => Command::Unknown,
        }
    }

    fn lock_command(&mut self) -> Command {
        let any = Lock {
            shared: self.random.of(&[false, true]),
            number: self.random.below(NAMES),
        };
        let held: Vec<Lock> = self.connection.held.iter().copied().collect();
        match self.random.below(10) {
            0..4 => Command::Lock(any, Act::Get),
            4..7 if !held.is_empty() => Command::Lock(self.random.of(&held), Act::Release),
            4..8 => Command::Lock(any, Act::Release),
            _ => Command::Lock(any, Act::Inspect),
        }
    }
}

/// The same numbers for the same seed.
struct Random(TestRng);

impl Random {
    fn new(seed: u64, number: u64) -> Random {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        Random(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0.next_u32() as usize % bound
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}
