//! Commands, their verbs, and the properties of each verb.
//!
//! Everything here that has a case for each command is made from the [table](crate::table). So no case can be
//! forgotten, and no two cases can disagree.
//!
//! Turned down: a `Command` of a verb and a list of arguments. The dispatcher would have to check at run time which
//! arguments there are.

use std::borrow::Cow;

use crate::table::with_commands;

/// Kind of a lock. The two kinds have separate names: an exclusive and a shared lock of the same name are two locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// Held by at most one connection.
    Exclusive,
    /// Held by an unlimited number of connections, and counted.
    Shared,
}

/// Class of commands that a client needs permission for.
///
/// An operator permits whole classes. So a new command of a class needs no decision from the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PermissionClass {
    /// Commands that concern only the connection that sends them. Always permitted.
    Session,
    /// Getting and releasing locks, and the requests of their holders and waiters.
    Lock,
    /// The state of one lock, without naming its holders.
    Inspect,
    /// Lists of locks and clients.
    List,
    /// Giving this connection a name.
    Name,
    /// Statistics of the server.
    Stats,
    /// Control of the server and of other clients. No command has it yet.
    Admin,
}

/// Property of a verb.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Property {
    /// The original has it, so the original's documentation describes it.
    Documented,
    /// It gets or releases a lock, so its reply belongs in the log.
    Logged,
    /// It is about registered names, so it needs a registry.
    Registry,
    /// Its reply may come later.
    Waits,
}

/// Row of a verb in the table.
struct Row {
    spelling: &'static str,
    class: PermissionClass,
    properties: &'static [Property],
}

/// Argument of a command, as the client writes it and the server reads it.
pub(crate) trait Argument<'a> {
    /// Reads the argument from the rest of the line, in which white space is folded.
    fn read(rest: Cow<'a, [u8]>) -> Self;

    /// Appends the argument to a line, with a space before it.
    fn append(&self, out: &mut Vec<u8>);
}

/// A name or a text: any bytes, or none.
impl<'a> Argument<'a> for Cow<'a, [u8]> {
    fn read(rest: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        rest
    }

    fn append(&self, out: &mut Vec<u8>) {
        append_bytes(self, out);
    }
}

/// A name that may be left out: an empty one was left out.
impl<'a> Argument<'a> for Option<Cow<'a, [u8]>> {
    fn read(rest: Cow<'a, [u8]>) -> Option<Cow<'a, [u8]>> {
        Some(rest).filter(|name| !name.is_empty())
    }

    fn append(&self, out: &mut Vec<u8>) {
        if let Some(name) = self {
            append_bytes(name, out);
        }
    }
}

/// The argument of `dump`: anything but `shared` is ignored.
impl<'a> Argument<'a> for LockKind {
    fn read(rest: Cow<'a, [u8]>) -> LockKind {
        match &*rest {
            b"shared" => LockKind::Shared,
            _ => LockKind::Exclusive,
        }
    }

    fn append(&self, out: &mut Vec<u8>) {
        if *self == LockKind::Shared {
            append_bytes(b"shared", out);
        }
    }
}

fn append_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(bytes);
}

fn append_number(number: u32, out: &mut Vec<u8>) {
    append_bytes(itoa::Buffer::new().format(number).as_bytes(), out);
}

/// The type of an argument in parentheses.
macro_rules! argument {
    ($lifetime:lifetime name) => { Cow<$lifetime, [u8]> };
    ($lifetime:lifetime text) => { Cow<$lifetime, [u8]> };
    ($lifetime:lifetime filter) => { Option<Cow<$lifetime, [u8]>> };
    ($lifetime:lifetime kind) => { LockKind };
}

/// The documentation of a number.
macro_rules! number {
    (ms) => {
        "Longest time to wait, in milliseconds."
    };
    (limit) => {
        "Maximum number of holders, this connection included."
    };
    (below) => {
        "Number of holders below which the wait succeeds."
    };
}

macro_rules! define_commands {
    ($(
        $(#[doc = $doc:literal])+
        $spelling:literal $verb:ident
        $command:ident $(($argument:ident))? $({ $($number:ident),+; name })?
        $class:ident [$($property:ident)*]
    )*) => {
        /// One parsed command. Names borrow from the frame, unless white space had to be folded.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Command<'a> {
            $(
                $(#[doc = $doc])+
                $command $((argument!('a $argument)))? $({
                    $(
                        #[doc = number!($number)]
                        $number: u32,
                    )+
                    /// Name of the lock.
                    name: Cow<'a, [u8]>,
                })?,
            )*
        }

        /// First word of a command, named as it is written on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Verb {
            $($(#[doc = $doc])+ $verb,)*
        }

        const VERBS: usize = [$(Verb::$verb),*].len();

        const ROWS: [Row; VERBS] = [$(
            Row {
                spelling: text($spelling),
                class: PermissionClass::$class,
                properties: &[$(Property::$property),*],
            },
        )*];

        impl Command<'_> {
            /// Returns the verb of this command.
            pub fn verb(&self) -> Verb {
                match self {
                    $(Command::$command { .. } => Verb::$verb,)*
                }
            }

            /// Returns the name of the lock that this command waits for, if its verb [waits](Verb::waits).
            pub fn waits_for(&self) -> Option<&[u8]> {
                match self {
                    $($(Command::$command { name, $($number: _),+ } if Verb::$verb.waits() => Some(name),)?)*
                    _ => None,
                }
            }

            /// Appends the line of this command, as a client sends it.
            ///
            /// The caller makes sure that no name has a line end in it, which would end the command there:
            /// [`fold`](crate::fold) removes them.
            pub fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.verb().as_str().as_bytes());
                match self {
                    $(Command::$command $(($argument))? $({ $($number,)+ name })? => {
                        $($argument.append(out);)?
                        $(
                            $(append_number(*$number, out);)+
                            name.append(out);
                        )?
                    })*
                }
                out.push(b'\n');
            }
        }

        impl Verb {
            /// Every verb, in the order of the table: the first is 0 `as usize`, the next is 1, and so on.
            pub const ALL: [Verb; VERBS] = [$(Verb::$verb),*];

            /// Returns the verb with this spelling, if there is one. Verbs are lower case.
            pub fn from_bytes(bytes: &[u8]) -> Option<Verb> {
                match bytes {
                    $($spelling => Some(Verb::$verb),)*
                    _ => None,
                }
            }
        }
    };
}

with_commands!(define_commands);

impl Verb {
    /// Every verb, in the order of their spelling.
    pub const SORTED: [Verb; VERBS] = sorted(Verb::ALL);

    /// Returns the verb as it is written on the wire.
    pub const fn as_str(self) -> &'static str {
        ROWS[self as usize].spelling
    }

    /// Returns the class that a client needs permission for to use this verb.
    pub fn class(self) -> PermissionClass {
        ROWS[self as usize].class
    }

    /// True if the original has this verb, so that the original's documentation describes it.
    pub fn is_documented(self) -> bool {
        self.has(Property::Documented)
    }

    /// True if this verb gets or releases a lock, so that its replies belong in the log.
    pub fn is_logged(self) -> bool {
        self.has(Property::Logged)
    }

    /// True if this verb is about registered names, so that a server must have a registry for it.
    pub fn needs_registry(self) -> bool {
        self.has(Property::Registry)
    }

    /// True if the reply may come later, within the time that the command gives in milliseconds.
    pub fn waits(self) -> bool {
        self.has(Property::Waits)
    }

    fn has(self, property: Property) -> bool {
        ROWS[self as usize].properties.contains(&property)
    }
}

const fn text(spelling: &'static [u8]) -> &'static str {
    match str::from_utf8(spelling) {
        Ok(text) => text,
        Err(_) => panic!("a verb is ASCII"),
    }
}

/// Sorts verbs by spelling. An insertion sort, because nothing in the standard library sorts at compile time.
const fn sorted(mut verbs: [Verb; VERBS]) -> [Verb; VERBS] {
    let mut end = 1;
    while end < VERBS {
        let mut place = end;
        while place > 0 && is_before(verbs[place], verbs[place - 1]) {
            (verbs[place], verbs[place - 1]) = (verbs[place - 1], verbs[place]);
            place -= 1;
        }
        end += 1;
    }
    verbs
}

/// True if the spelling of `a` is before that of `b`.
const fn is_before(a: Verb, b: Verb) -> bool {
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    let mut index = 0;
    while index < a.len() && index < b.len() {
        if a[index] != b[index] {
            return a[index] < b[index];
        }
        index += 1;
    }
    a.len() < b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verb_is_found_by_its_spelling() {
        for (index, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(Verb::from_bytes(verb.as_str().as_bytes()), Some(verb));
            assert_eq!(verb as usize, index, "tables are indexed by verb");
        }
    }

    #[test]
    fn sorted_verbs_are_all_verbs_in_order_of_spelling() {
        let mut expected = Verb::ALL;
        expected.sort_by_key(|verb| verb.as_str());
        assert_eq!(Verb::SORTED, expected);
    }

    /// Lists the verbs of each property and class, so that a change of the table shows what it changes for clients and
    /// operators.
    #[test]
    fn verbs_have_their_properties_and_classes() {
        let spelled = |property: fn(Verb) -> bool| {
            let verbs = Verb::SORTED.into_iter().filter(|&verb| property(verb));
            verbs.map(Verb::as_str).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            spelled(Verb::is_documented),
            "d dump g i iam me q r sd sg si sr who"
        );
        assert_eq!(spelled(Verb::is_logged), "g gw r sg sgl sgw sr");
        assert_eq!(spelled(Verb::needs_registry), "iam lwho who");
        assert_eq!(spelled(Verb::waits), "gw iw sgw siw");
        assert_eq!(
            spelled(|verb| verb.class() == PermissionClass::Session),
            "hello me ping"
        );
        assert_eq!(
            spelled(|verb| verb.class() == PermissionClass::Lock),
            "cancel f g gw r sf sg sgl sgw sr"
        );
        assert_eq!(
            spelled(|verb| verb.class() == PermissionClass::Inspect),
            "i iw si siw"
        );
        assert_eq!(
            spelled(|verb| verb.class() == PermissionClass::List),
            "d dump ld ldl lsd lsdl lwho own sd who"
        );
        assert_eq!(spelled(|verb| verb.class() == PermissionClass::Name), "iam");
        assert_eq!(
            spelled(|verb| verb.class() == PermissionClass::Stats),
            "lq q"
        );
    }
}
