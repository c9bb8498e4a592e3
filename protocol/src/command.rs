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
}

/// The two kinds of lock, which do not know of each other's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        }
    }
}

/// The thirteen verbs, named as they are written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "a verb is its own name; what it asks for stands at `Command`"
)]
pub enum Verb {
    D,
    Dump,
    G,
    I,
    Iam,
    Me,
    Q,
    R,
    Sd,
    Sg,
    Si,
    Sr,
    Who,
}

impl Verb {
    /// Every verb, in the order of their spelling.
    pub const ALL: [Verb; 13] = [
        Verb::D,
        Verb::Dump,
        Verb::G,
        Verb::I,
        Verb::Iam,
        Verb::Me,
        Verb::Q,
        Verb::R,
        Verb::Sd,
        Verb::Sg,
        Verb::Si,
        Verb::Sr,
        Verb::Who,
    ];

    /// The verb as it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::D => "d",
            Verb::Dump => "dump",
            Verb::G => "g",
            Verb::I => "i",
            Verb::Iam => "iam",
            Verb::Me => "me",
            Verb::Q => "q",
            Verb::R => "r",
            Verb::Sd => "sd",
            Verb::Sg => "sg",
            Verb::Si => "si",
            Verb::Sr => "sr",
            Verb::Who => "who",
        }
    }

    /// The verb that is written so, if there is one. Verbs are lower case.
    pub fn from_bytes(bytes: &[u8]) -> Option<Verb> {
        Some(match bytes {
            b"g" => Verb::G,
            b"r" => Verb::R,
            b"i" => Verb::I,
            b"sg" => Verb::Sg,
            b"sr" => Verb::Sr,
            b"si" => Verb::Si,
            b"d" => Verb::D,
            b"sd" => Verb::Sd,
            b"dump" => Verb::Dump,
            b"me" => Verb::Me,
            b"iam" => Verb::Iam,
            b"who" => Verb::Who,
            b"q" => Verb::Q,
            _ => return None,
        })
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
