//! A client that acts at random, through one connection after the other.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::command::Command;
use crate::connection::Connection;
use crate::history::{Act, Lock, NAMES};
use crate::wire::Via;
use crate::world::World;

/// Maximum number of commands that are sent together.
const BATCH: usize = 8;

/// Times of waits, in milliseconds. Most are short, so that they end while other operations run.
const MILLISECONDS: [u32; 16] = [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 5, 5, 20];

pub(crate) struct Client {
    world: Arc<World>,
    random: Random,
    pub(crate) connection: Connection,
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Closes its sending side after its last commands, which ends its waits, and waits for the server to close.
    Finish,
    /// Disconnects once everything is answered.
    Disconnect,
    /// Disconnects while commands are under way.
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

    /// Acts this number of times. A polite client never disconnects before everything is answered.
    pub(crate) async fn act(mut self, times: usize, polite: bool) -> Client {
        for _ in 0..times {
            match self.random.below(20) {
                0 => self.reconnect(polite).await,
                1 => self.visit().await,
                _ => {
                    self.send_commands().await;
                    while self.connection.receive().await.is_some() {}
                }
            }
        }
        self
    }

    /// Disconnects for good.
    pub(crate) async fn leave(mut self) {
        let polite = false;
        self.reconnect(polite).await;
        self.send_commands().await;
        self.connection.finish().await;
    }

    /// Ends the connection in some way, and opens another one, on which it observes that end.
    async fn reconnect(&mut self, polite: bool) {
        let next = Connection::open(&self.world, self.random.of(&Via::ALL)).await;
        self.send_commands().await;
        let mut last = std::mem::replace(&mut self.connection, next);
        let ends = [End::Finish, End::Disconnect, End::BreakOff];
        match self.random.of(&ends[..if polite { 2 } else { 3 }]) {
            End::Finish => return last.finish().await,
            End::Disconnect => while last.receive().await.is_some() {},
            End::BreakOff => {
                for _ in 0..self.random.below(4) {
                    last.receive().await;
                }
                last.pause().await;
            }
        }
        let reset = self.random.of(&[false, true]);
        let disconnected = last.disconnect(reset);
        // Its name disappears once all its locks are free.
        let who = Command::Who {
            of: Some(disconnected.number),
            counted: false,
        };
        while !self.connection.ask(vec![who]).await.is_empty() {}
        disconnected.record(&self.world);
    }

    /// Sends some commands, in one or two parts. The second part may arrive during a wait of the first, or as that
    /// ends.
    async fn send_commands(&mut self) {
        let mut first = self.commands();
        let second = first.split_off(self.random.below(first.len() + 1));
        self.connection.send(first).await;
        match self.random.below(3) {
            0 => self.connection.pause().await,
            1 => drop(self.connection.receive().await),
            _ => {}
        }
        self.connection.send(second).await;
    }

    /// Connects, and disconnects without a command, maybe during the handshake.
    async fn visit(&mut self) {
        let addresses = &self.world.addresses;
        let handshake = b"GET / HTTP/1.1\r\nHost: somewhere\r\n";
        let (address, length) = match self.random.below(2) {
            0 => (addresses.tcp, 0),
            _ => (addresses.websocket, self.random.below(handshake.len())),
        };
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&handshake[..length]).await.unwrap();
        if self.random.of(&[false, true]) {
            let socket = SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }

    fn commands(&mut self) -> Vec<Command> {
        let most = self.random.of(&[1, BATCH]);
        let mut commands = Vec::new();
        for _ in 0..=self.random.below(most) {
            let command = self.command();
            commands.push(command);
            if command.waits() && self.random.below(4) > 0 {
                // The reply to a ping shows that the wait has begun.
                commands.push(self.ping());
            }
            match command {
                Command::Wait { lock, .. } if self.random.below(4) == 0 => {
                    commands.push(Command::Cancel(lock.number));
                }
                Command::Lock(lock, act) | Command::Wait { lock, act, .. }
                    if act.gets() && self.random.of(&[false, true]) =>
                {
                    commands.push(Command::Fence(lock));
                }
                _ => {}
            }
        }
        commands
    }

    fn command(&mut self) -> Command {
        let shared = self.random.of(&[false, true]);
        let counted = self.random.of(&[false, true]);
        let number = self.random.below(NAMES);
        match self.random.below(100) {
            0..75 => self.lock_command(),
            75..85 => self.wait(),
            85 => self.ping(),
            86 => Command::Cancel(number),
            87 => Command::Fence(Lock { shared, number }),
            88..90 => Command::Claims(number),
            90..93 => Command::List { shared, counted },
            93 => Command::ListWithLengths { shared },
            94..96 => Command::Who {
                of: Some(self.connection.number),
                counted,
            },
            96 => Command::Iam(self.connection.number),
            97 => Command::Me,
            98 => Command::Statistics { counted },
            _ => Command::Unknown,
        }
    }

    fn lock_command(&mut self) -> Command {
        let any = self.lock();
        let held: Vec<Lock> = self.connection.held.keys().copied().collect();
        match self.random.below(10) {
            0 if any.shared => {
                let limit = self.limit(any);
                Command::Lock(
                    any,
                    Act::GetBelow {
                        limit,
                        waits: false,
                    },
                )
            }
            0..4 => Command::Lock(any, Act::Get),
            4..7 if !held.is_empty() => Command::Lock(self.random.of(&held), Act::Release),
            4..8 => Command::Lock(any, Act::Release),
            _ => Command::Lock(any, Act::Inspect),
        }
    }

    fn wait(&mut self) -> Command {
        let lock = self.lock();
        let ms = self.random.of(&MILLISECONDS);
        let waits = ms > 0;
        let act = match self.random.below(4) {
            0 => Act::Watch {
                below: self.limit(lock),
                waits,
            },
            _ => Act::GetBelow {
                limit: self.limit(lock),
                waits,
            },
        };
        Command::Wait { lock, act, ms }
    }

    fn lock(&mut self) -> Lock {
        Lock {
            shared: self.random.of(&[false, true]),
            number: self.random.below(NAMES),
        }
    }

    /// Returns a random limit of holders.
    fn limit(&mut self, lock: Lock) -> u32 {
        match lock.shared {
            true => self.random.of(&[1, 2, 3, 4]),
            false => 1,
        }
    }

    fn ping(&mut self) -> Command {
        Command::Ping(self.random.0.next_u32())
    }
}

/// Random numbers, which are the same for the same seed.
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
