//! What a client can ask for.

use std::borrow::Cow;

/// One parsed command. Names borrow from the frame, unless white space had to be folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `g NAME`: get an exclusive lock.
    Get(Cow<'a, [u8]>),
    /// `r NAME`: release an exclusive lock.
    Release(Cow<'a, [u8]>),
    /// `i NAME`: is this name locked exclusively?
    Inspect(Cow<'a, [u8]>),
    /// `sg NAME`: get a shared lock.
    SharedGet(Cow<'a, [u8]>),
    /// `sr NAME`: release a shared lock.
    SharedRelease(Cow<'a, [u8]>),
    /// `si NAME`: how many hold this shared lock?
    SharedInspect(Cow<'a, [u8]>),
    /// `d`, `d NAME`: list exclusive locks with their holders.
    List(Option<Cow<'a, [u8]>>),
    /// `sd`, `sd NAME`: list shared locks with their holders.
    SharedList(Option<Cow<'a, [u8]>>),
    /// `dump`, `dump shared`: print a lock table on one line.
    Dump(LockKind),
    /// `me`: this connection's address and name.
    Me,
    /// `iam NAME`: register a name for this connection; `iam` alone takes it back.
    Iam(Option<Cow<'a, [u8]>>),
    /// `who`, `who NAME`: list the connections that registered a name.
    Who(Option<Cow<'a, [u8]>>),
    /// `q`: the statistics.
    Statistics,
    /// `hello`: what else than the documented commands can be asked for?
    Hello,
    /// `ping`, `ping TEXT`: is anyone there?
    Ping(Cow<'a, [u8]>),
    /// `gw MS NAME`: get an exclusive lock, and wait for it.
    GetWait {
        /// How long at most, in milliseconds.
        ms: u32,
        /// The lock.
        name: Cow<'a, [u8]>,
    },
    /// `sgl LIMIT NAME`: get a shared lock, unless so many hold it.
    SharedGetLimited {
        /// How many may hold it, this connection included.
        limit: u32,
        /// The lock.
        name: Cow<'a, [u8]>,
    },
    /// `sgw MS LIMIT NAME`: the same, and wait for it.
    SharedGetWait {
        /// How long at most, in milliseconds.
        ms: u32,
        /// How many may hold it, this connection included.
        limit: u32,
        /// The lock.
        name: Cow<'a, [u8]>,
    },
    /// `cancel NAME`: wait for this lock no more.
    Cancel(Cow<'a, [u8]>),
    /// `iw MS NAME`: wait until nobody holds this exclusive lock.
    InspectWait {
        /// How long at most, in milliseconds.
        ms: u32,
        /// The lock.
        name: Cow<'a, [u8]>,
    },
    /// `siw MS BELOW NAME`: wait until fewer than that hold this shared lock.
    SharedInspectWait {
        /// How long at most, in milliseconds.
        ms: u32,
        /// Fewer than so many.
        below: u32,
        /// The lock.
        name: Cow<'a, [u8]>,
    },
    /// `f NAME`: the fencing token of an exclusive lock that this connection holds.
    Fence(Cow<'a, [u8]>),
    /// `sf NAME`: that of a shared lock.
    SharedFence(Cow<'a, [u8]>),
    /// `own NAME`: who holds the locks of this name, and who waits for them?
    Claims(Cow<'a, [u8]>),
    /// `ld`, `ld NAME`: as `d`, counted.
    CountedList(Option<Cow<'a, [u8]>>),
    /// `lsd`, `lsd NAME`: as `sd`, counted.
    CountedSharedList(Option<Cow<'a, [u8]>>),
    /// `ldl`, `ldl NAME`: as `ld`, with the length of each name.
    ListWithLengths(Option<Cow<'a, [u8]>>),
    /// `lsdl`, `lsdl NAME`: as `lsd`, with the length of each name.
    SharedListWithLengths(Option<Cow<'a, [u8]>>),
    /// `lwho`, `lwho NAME`: as `who`, counted.
    CountedWho(Option<Cow<'a, [u8]>>),
    /// `lq`: as `q`, counted.
    CountedStatistics,
}

/// The two kinds of lock, which do not know of each other's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// Held by one connection at a time.
    Exclusive,
    /// Held by any number of connections, and counted.
    Shared,
}

impl Command<'_> {
    /// The verb this command was asked by.
    pub fn verb(&self) -> Verb {
        match self {
            Command::Get(_) => Verb::G,
            Command::Release(_) => Verb::R,
            Command::Inspect(_) => Verb::I,
            Command::SharedGet(_) => Verb::Sg,
            Command::SharedRelease(_) => Verb::Sr,
            Command::SharedInspect(_) => Verb::Si,
            Command::List(_) => Verb::D,
            Command::SharedList(_) => Verb::Sd,
            Command::Dump(_) => Verb::Dump,
            Command::Me => Verb::Me,
            Command::Iam(_) => Verb::Iam,
            Command::Who(_) => Verb::Who,
            Command::Statistics => Verb::Q,
            Command::Hello => Verb::Hello,
            Command::Ping(_) => Verb::Ping,
            Command::GetWait { .. } => Verb::Gw,
            Command::SharedGetLimited { .. } => Verb::Sgl,
            Command::SharedGetWait { .. } => Verb::Sgw,
            Command::Cancel(_) => Verb::Cancel,
            Command::InspectWait { .. } => Verb::Iw,
            Command::SharedInspectWait { .. } => Verb::Siw,
            Command::Fence(_) => Verb::F,
            Command::SharedFence(_) => Verb::Sf,
            Command::Claims(_) => Verb::Own,
            Command::CountedList(_) => Verb::Ld,
            Command::CountedSharedList(_) => Verb::Lsd,
            Command::ListWithLengths(_) => Verb::Ldl,
            Command::SharedListWithLengths(_) => Verb::Lsdl,
            Command::CountedWho(_) => Verb::Lwho,
            Command::CountedStatistics => Verb::Lq,
        }
    }

    /// Appends the line that asks for this, as a client sends it. That a name has no line end in it, which would
    /// end the command there, is the caller's affair: [`fold`](crate::fold) takes them out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.verb().as_str().as_bytes());
        let mut operand = |bytes: &[u8]| {
            out.push(b' ');
            out.extend_from_slice(bytes);
        };
        let mut digits = itoa::Buffer::new();
        match self {
            Command::Me | Command::Statistics | Command::Hello | Command::CountedStatistics => {}
            Command::Dump(LockKind::Exclusive) => {}
            Command::Dump(LockKind::Shared) => operand(b"shared"),
            Command::Get(name)
            | Command::Release(name)
            | Command::Inspect(name)
            | Command::SharedGet(name)
            | Command::SharedRelease(name)
            | Command::SharedInspect(name)
            | Command::Ping(name)
            | Command::Cancel(name)
            | Command::Fence(name)
            | Command::SharedFence(name)
            | Command::Claims(name) => operand(name),
            Command::List(name)
            | Command::SharedList(name)
            | Command::Iam(name)
            | Command::Who(name)
            | Command::CountedList(name)
            | Command::CountedSharedList(name)
            | Command::ListWithLengths(name)
            | Command::SharedListWithLengths(name)
            | Command::CountedWho(name) => {
                if let Some(name) = name {
                    operand(name);
                }
            }
            Command::GetWait { ms, name } | Command::InspectWait { ms, name } => {
                operand(digits.format(*ms).as_bytes());
                operand(name);
            }
            Command::SharedGetLimited { limit, name } => {
                operand(digits.format(*limit).as_bytes());
                operand(name);
            }
            Command::SharedGetWait { ms, limit, name }
            | Command::SharedInspectWait {
                ms,
                below: limit,
                name,
            } => {
                operand(digits.format(*ms).as_bytes());
                operand(digits.format(*limit).as_bytes());
                operand(name);
            }
        }
        out.push(b'\n');
    }
}

macro_rules! verbs {
    ($($verb:ident $spelling:literal)*) => {
        /// The verbs, named as they are written on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(
            missing_docs,
            reason = "a verb is its own name; what it asks for stands at `Command`"
        )]
        pub enum Verb {
            $($verb,)*
        }

        impl Verb {
            /// Every verb, in the order of their spelling.
            pub const ALL: [Verb; [$(Verb::$verb),*].len()] = [$(Verb::$verb),*];

            /// The verb as it is written on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Verb::$verb => const { text($spelling) },)*
                }
            }

            /// The verb that is written so, if there is one. Verbs are lower case.
            pub fn from_bytes(bytes: &[u8]) -> Option<Verb> {
                match bytes {
                    $($spelling => Some(Verb::$verb),)*
                    _ => None,
                }
            }
        }
    };
}

verbs! {
    Cancel b"cancel"
    D b"d"
    Dump b"dump"
    F b"f"
    G b"g"
    Gw b"gw"
    Hello b"hello"
    I b"i"
    Iam b"iam"
    Iw b"iw"
    Ld b"ld"
    Ldl b"ldl"
    Lq b"lq"
    Lsd b"lsd"
    Lsdl b"lsdl"
    Lwho b"lwho"
    Me b"me"
    Own b"own"
    Ping b"ping"
    Q b"q"
    R b"r"
    Sd b"sd"
    Sf b"sf"
    Sg b"sg"
    Sgl b"sgl"
    Sgw b"sgw"
    Si b"si"
    Siw b"siw"
    Sr b"sr"
    Who b"who"
}

const fn text(spelling: &'static [u8]) -> &'static str {
    match str::from_utf8(spelling) {
        Ok(text) => text,
        Err(_) => panic!("a verb is ASCII"),
    }
}

impl Verb {
    /// Whether the original has it too, so that the seed documents it.
    pub fn is_documented(self) -> bool {
        use Verb::{D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who};
        matches!(
            self,
            D | Dump | G | I | Iam | Me | Q | R | Sd | Sg | Si | Sr | Who
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_found_by_its_spelling() {
        for (index, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(Verb::from_bytes(verb.as_str().as_bytes()), Some(verb));
            assert_eq!(verb as usize, index, "tables are indexed by verb");
        }
        assert!(Verb::ALL.is_sorted_by_key(|verb| verb.as_str()));
    }
}
