//! The table of commands.
//!
//! A row is everything that the protocol has to know about a command. From the table, [`command`](crate::command) makes
//! the types `Command` and `Verb`, the encoder and the properties of a verb, and [`parse`](mod@crate::parse) makes the
//! parser. So a new command is a row here, an arm in the dispatcher, and the text of its reply.
//!
//! Turned down: a derive macro, because it needs a crate of its own for thirty rows. Also a `const` array of rows,
//! because no `enum` with a field for each argument can be made from it.

/// Calls the macro `$consume` with the rows of the table.
///
/// The rows are in the order in which a reader meets them: first the documented commands, then the extensions. A row
/// has:
///
/// - the documentation of the command;
/// - its verb as it is written on the wire, and the variant of `Verb` for it;
/// - the variant of `Command`, with its arguments. A single argument is in parentheses: `name`, `text`, `filter` (a
///   name that may be left out) or `kind`. Numbers and the name of a lock behind them are in braces; on the wire a space
///   follows each number. `Argument` defines each argument in Rust and on the wire;
/// - the [permission class](crate::PermissionClass);
/// - the [properties](crate::command::Property) of the verb, in brackets.
macro_rules! with_commands {
    ($consume:ident) => {
        $consume! {
            /// `g NAME`: gets an exclusive lock.
            b"g" G Get(name) Lock [Documented Logged]

            /// `r NAME`: releases an exclusive lock.
            b"r" R Release(name) Lock [Documented Logged]

            /// `i NAME`: tells if an exclusive lock is held.
            b"i" I Inspect(name) Inspect [Documented]

            /// `sg NAME`: gets a shared lock.
            b"sg" Sg SharedGet(name) Lock [Documented Logged]

            /// `sr NAME`: releases a shared lock.
            b"sr" Sr SharedRelease(name) Lock [Documented Logged]

            /// `si NAME`: tells how many connections hold a shared lock.
            b"si" Si SharedInspect(name) Inspect [Documented]

            /// `d`, `d NAME`: lists exclusive locks with their holders.
            b"d" D List(filter) List [Documented]

            /// `sd`, `sd NAME`: lists shared locks with their holders.
            b"sd" Sd SharedList(filter) List [Documented]

            /// `dump`, `dump shared`: prints a lock table on one line.
            b"dump" Dump Dump(kind) List [Documented]

            /// `me`: tells the address and the name of this connection.
            b"me" Me Me Session [Documented]

            /// `iam NAME`: registers a name for this connection; `iam` alone removes it.
            b"iam" Iam Iam(filter) Name [Documented Registry]

            /// `who`, `who NAME`: lists the connections that registered a name.
            b"who" Who Who(filter) List [Documented Registry]

            /// `q`: shows the statistics.
            b"q" Q Statistics Stats [Documented]

            /// `hello`: tells which extensions the server has.
            b"hello" Hello Hello Session []

            /// `ping`, `ping TEXT`: tells that the server is alive, and repeats the text.
            b"ping" Ping Ping(text) Session []

            /// `gw MS NAME`: gets an exclusive lock, and waits for it.
            b"gw" Gw GetWait { ms; name } Lock [Logged Waits]

            /// `sgl LIMIT NAME`: gets a shared lock, if fewer than `LIMIT` connections hold it.
            b"sgl" Sgl SharedGetLimited { limit; name } Lock [Logged]

            /// `sgw MS LIMIT NAME`: gets a shared lock, and waits until fewer than `LIMIT` connections hold it.
            b"sgw" Sgw SharedGetWait { ms, limit; name } Lock [Logged Waits]

            /// `cancel NAME`: stops waiting for a lock.
            b"cancel" Cancel Cancel(name) Lock []

            /// `iw MS NAME`: waits until no connection holds an exclusive lock.
            b"iw" Iw InspectWait { ms; name } Inspect [Waits]

            /// `siw MS BELOW NAME`: waits until fewer than `BELOW` connections hold a shared lock.
            b"siw" Siw SharedInspectWait { ms, below; name } Inspect [Waits]

            /// `f NAME`: tells the fencing token of an exclusive lock that this connection holds.
            b"f" F Fence(name) Lock []

            /// `sf NAME`: tells the fencing token of a shared lock that this connection holds.
            b"sf" Sf SharedFence(name) Lock []

            /// `own NAME`: lists the claims on the locks of this name: their holders and waiters.
            b"own" Own Claims(name) List []

            /// `ld`, `ld NAME`: as `d`, counted.
            b"ld" Ld CountedList(filter) List []

            /// `lsd`, `lsd NAME`: as `sd`, counted.
            b"lsd" Lsd CountedSharedList(filter) List []

            /// `ldl`, `ldl NAME`: as `ld`, with the length of each name.
            b"ldl" Ldl ListWithLengths(filter) List []

            /// `lsdl`, `lsdl NAME`: as `lsd`, with the length of each name.
            b"lsdl" Lsdl SharedListWithLengths(filter) List []

            /// `lwho`, `lwho NAME`: as `who`, counted.
            b"lwho" Lwho CountedWho(filter) List [Registry]

            /// `lq`: as `q`, counted.
            b"lq" Lq CountedStatistics Stats []
        }
    };
}

pub(crate) use with_commands;
