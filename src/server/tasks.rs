//! The tasks of the connections, so that they can be aborted: one of them, or all.
//!
//! The table knows clients and [`AbortHandle`]s, and nothing of what the tasks do. It is indexed by the client, as the
//! registry is: an entry costs 16 bytes. Turned down: a signal that each connection awaits beside its input. It would
//! cost each a node in a list, which is entered and left with every batch.

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::core::registry::ClientId;

/// The tasks, one for each connected client.
#[derive(Debug)]
pub(crate) struct Tasks {
    /// `None` once the server has begun to end, when no more tasks may start.
    table: Mutex<Option<TaskTable>>,
}

#[derive(Debug, Default)]
struct TaskTable {
    /// Indexed by [`ClientId::index`].
    tasks: Vec<Task>,
    /// Number of tasks that were started.
    started: u64,
}

/// The state of one client's task.
#[derive(Debug, Default)]
enum Task {
    /// No task: the entry is free.
    #[default]
    Free,
    /// About to be spawned.
    Starting(StartNumber),
    /// Aborted while it was about to be spawned.
    AbortedEarly(StartNumber),
    /// Spawned.
    Running(AbortHandle),
}

/// The number of a start of a task. A task can end while it is about to be spawned, and another client can have its entry
/// by then. This number tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StartNumber(u64);

/// The entry of a client whose task is about to be spawned.
#[derive(Debug)]
#[must_use = "the client cannot be disconnected before its task is spawned"]
pub(crate) struct Reservation {
    client: ClientId,
    start: StartNumber,
}

/// An abort that was granted and has yet to be carried out.
///
/// The two steps are apart because [`carry_out`](PreparedAbort::carry_out) may drop the connection at once, which takes
/// the mutexes of the table and of the registry. A caller that holds one of them prepares the abort under it.
#[derive(Debug)]
#[must_use = "the task runs on until the abort is carried out"]
pub(crate) struct PreparedAbort(Option<AbortHandle>);

impl PreparedAbort {
    /// Aborts the task.
    pub(crate) fn carry_out(self) {
        if let Some(handle) = self.0 {
            handle.abort();
        }
    }
}

impl Tasks {
    pub(crate) fn new() -> Tasks {
        Tasks {
            table: Mutex::new(Some(TaskTable::default())),
        }
    }

    /// Spawns the task of a client. If it has been aborted in the meantime, it may end before its first poll.
    ///
    /// The task must [forget](Tasks::forget) itself when it ends, and before the client's id can be reused.
    pub(crate) fn spawn(
        &self,
        reservation: Reservation,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        // Not under the mutex: a runtime that shuts down drops the task at once, which then forgets itself.
        // Boxed, because tokio aligns what it spawns to 128 bytes, and an allocator pads that.
        let task = tokio::spawn(Box::pin(future));
        self.finish_start(reservation, task.abort_handle());
    }

    /// Reserves the entry of a client, which can be aborted from now on. Returns `None` if no more tasks may start.
    pub(crate) fn reserve(&self, client: ClientId) -> Option<Reservation> {
        let mut table = self.table.lock();
        let TaskTable { tasks, started } = table.as_mut()?;
        if tasks.len() <= client.index() {
            tasks.resize_with(client.index() + 1, Task::default);
        }
        *started += 1;
        let start = StartNumber(*started);
        tasks[client.index()] = Task::Starting(start);
        Some(Reservation { client, start })
    }

    /// Enters a task that was spawned, unless it has ended already.
    fn finish_start(&self, Reservation { client, start }: Reservation, handle: AbortHandle) {
        let is_aborted = match self.table.lock().as_mut() {
            None => true,
            Some(table) => {
                let task = &mut table.tasks[client.index()];
                let is_aborted = match *task {
                    Task::Starting(found) if found == start => false,
                    Task::AbortedEarly(found) if found == start => true,
                    _ => return,
                };
                *task = Task::Running(handle.clone());
                is_aborted
            }
        };
        if is_aborted {
            handle.abort();
        }
    }

    /// Forgets the task of a client, which ends.
    pub(crate) fn forget(&self, client: ClientId) {
        if let Some(table) = self.table.lock().as_mut()
            && let Some(task) = table.tasks.get_mut(client.index())
        {
            *task = Task::Free;
        }
    }

    /// Prepares to abort the task of a client. Returns `None` if it has none, or if its task has ended.
    ///
    /// To be sure that the id has not been reused meanwhile, call this while the registry is locked.
    pub(crate) fn prepare_abort(&self, client: ClientId) -> Option<PreparedAbort> {
        let mut table = self.table.lock();
        let task = table.as_mut()?.tasks.get_mut(client.index())?;
        match task {
            Task::Running(handle) => Some(PreparedAbort(Some(handle.clone()))),
            Task::Starting(start) | Task::AbortedEarly(start) => {
                *task = Task::AbortedEarly(*start);
                Some(PreparedAbort(None))
            }
            Task::Free => None,
        }
    }

    /// Runs `run` while the table is locked.
    #[cfg(test)]
    pub(crate) fn while_locked<T>(&self, run: impl FnOnce() -> T) -> T {
        let _locked = self.table.lock();
        run()
    }

    /// Aborts all tasks, and lets no more start.
    pub(crate) fn abort_all(&self) {
        let table = self.table.lock().take();
        for task in table.into_iter().flat_map(|table| table.tasks) {
            if let Task::Running(handle) = task {
                handle.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::core::registry::Registry;

    /// Longer than anything takes on the slowest of machines: to reach it is to fail.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn client() -> ClientId {
        Registry::default().add(b"a")
    }

    /// Spawns a task that never ends by itself. The receiver fails once it is dropped.
    fn spawn_endless(tasks: &Tasks, client: ClientId) -> oneshot::Receiver<()> {
        let (dropped, is_dropped) = oneshot::channel();
        let endless = async move {
            pending::<()>().await;
            drop(dropped);
        };
        if let Some(reservation) = tasks.reserve(client) {
            tasks.spawn(reservation, endless);
        }
        is_dropped
    }

    async fn expect_end(is_dropped: oneshot::Receiver<()>) {
        assert!(timeout(PATIENCE, is_dropped).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn one_task_is_aborted() {
        let registry = Registry::default();
        let [one, two] = ["one", "two"].map(|peer| registry.add(peer.as_bytes()));
        let tasks = Tasks::new();
        let first = spawn_endless(&tasks, one);
        let mut second = spawn_endless(&tasks, two);
        tasks.prepare_abort(one).unwrap().carry_out();
        expect_end(first).await;
        assert!(
            second
                .try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
        );
        tasks.abort_all();
        expect_end(second).await;
    }

    #[tokio::test]
    async fn forgotten_task_is_not_aborted() {
        let (tasks, client) = (Tasks::new(), client());
        assert!(tasks.prepare_abort(client).is_none());
        let _running = spawn_endless(&tasks, client);
        tasks.forget(client);
        assert!(tasks.prepare_abort(client).is_none());
    }

    #[tokio::test]
    async fn no_task_starts_after_all_were_aborted() {
        let (tasks, client) = (Tasks::new(), client());
        tasks.abort_all();
        expect_end(spawn_endless(&tasks, client)).await;
        assert!(tasks.prepare_abort(client).is_none());
    }

    /// The future ends, or is aborted, between the two visits of `spawn` to its entry.
    #[tokio::test]
    async fn early_end_and_early_abort_are_kept() {
        let (tasks, client) = (Tasks::new(), client());
        let reservation = tasks.reserve(client).unwrap();
        tasks.forget(client);
        tasks.finish_start(reservation, tokio::spawn(async {}).abort_handle());
        assert!(tasks.prepare_abort(client).is_none());
        let reservation = tasks.reserve(client).unwrap();
        tasks.prepare_abort(client).unwrap().carry_out();
        let task = tokio::spawn(pending::<()>());
        tasks.finish_start(reservation, task.abort_handle());
        let ended = timeout(PATIENCE, task).await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }

    /// The first task ends early, and another client gets its id.
    #[tokio::test]
    async fn late_start_leaves_the_task_of_the_next_client_alone() {
        let (tasks, client) = (Tasks::new(), client());
        let reservation = tasks.reserve(client).unwrap();
        tasks.forget(client);
        let next = spawn_endless(&tasks, client);
        tasks.finish_start(reservation, tokio::spawn(async {}).abort_handle());
        tasks.prepare_abort(client).unwrap().carry_out();
        expect_end(next).await;
    }
}
