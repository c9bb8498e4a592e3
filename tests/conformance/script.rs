//! Scripts with labelled clients, and the transcripts they make.
//!
//! A line of a script is `A: COMMAND` (client `A`, which connects when it is first named, sends a
//! command, `\xNN` and the like standing for bytes), `+ A` (it connects) or `- A` (it closes, and the
//! script goes on when the server knows). In a transcript `A< …` is a line of the reply, as escaped
//! bytes, and addresses stand as `<A>`.

use std::collections::BTreeMap;

use glockd::{Limits, Policy};

use crate::server::{Client, TestServer, Via, bounded};

/// Runs a script over every transport, and holds the transcript, which must be the same for all, against
/// its snapshot.
pub(crate) async fn check(snapshot: &str, policy: Policy, script: &str) {
    check_over(&Via::ALL, snapshot, policy, script).await;
}

/// The same, over some transports.
pub(crate) async fn check_over(vias: &[Via], snapshot: &str, policy: Policy, script: &str) {
    let mut transcripts = Vec::new();
    for &via in vias {
        transcripts.push(bounded(transcript(via, policy, script)).await);
    }
    for (via, transcript) in vias.iter().zip(&transcripts) {
        assert_eq!(
            transcript, &transcripts[0],
            "{via:?} differs from {:?}",
            vias[0]
        );
    }
    pin(snapshot, &transcripts[0]);
}

/// Holds a text against a snapshot.
pub(crate) fn pin(snapshot: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(snapshot, text));
}

/// What a script leads to over a transport.
pub(crate) async fn transcript(via: Via, policy: Policy, script: &str) -> String {
    let mut run = Run::start(via, policy).await;
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        run.step(line).await;
    }
    // A WebSocket client that is there but does not read would keep the server waiting at its end.
    drop((run.clients, run.control));
    run.server.stop().await;
    run.transcript
}

struct Run {
    via: Via,
    server: TestServer,
    /// Sees when others are gone. It and what it asks are taken off the statistics.
    control: Client,
    clients: BTreeMap<String, Client>,
    /// The label of each address that was ever seen.
    labels: Vec<(String, String)>,
    asked: u64,
    marks: u64,
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
            let (label, command) = line.split_once(':').expect("a label and a command");
            if !self.clients.contains_key(label) {
                self.connect(label).await;
            }
            let command = unescape(command.strip_prefix(' ').unwrap_or(command));
            let client = self.clients.get_mut(label).unwrap();
            let (reply, marks) = client.ask(&command).await;
            let reply = self.normalise(&reply);
            // Counted only now: a `q` is answered before its mark.
            self.marks += marks;
            for line in reply.split_inclusive(|&byte| byte == b'\n') {
                let line = line.escape_ascii().to_string();
                self.transcript += &format!("{label}< {}\n", self.label(line));
            }
        }
    }

    async fn connect(&mut self, label: &str) {
        let client = self.server.connect(self.via).await;
        self.labels
            .push((client.address.clone(), format!("<{label}>")));
        self.clients.insert(label.to_owned(), client);
        // A stream is accepted some time after its client believes itself connected.
        let all = self.clients.len() as u64 + 1;
        while self.connections().await != all {}
    }

    fn label(&self, mut line: String) -> String {
        for (address, label) in &self.labels {
            line = line.replace(address, label);
        }
        line
    }

    /// Takes what this runner has caused itself off the statistics.
    fn normalise(&self, reply: &[u8]) -> Vec<u8> {
        let line = |line: &[u8]| {
            let own = [
                (&b"command_i: "[..], self.marks),
                (b"command_q: ", self.asked),
                (b"connections: ", 1),
            ];
            for (key, own) in own {
                if let Some(value) = line.strip_prefix(key) {
                    let value: u64 = str::from_utf8(value.trim_ascii_end())
                        .unwrap()
                        .parse()
                        .unwrap();
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

/// The bytes that a script's `\t \v \f \r \n \\ \xNN` stand for.
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
