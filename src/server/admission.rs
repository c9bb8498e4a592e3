//! Limits on the number of connections, in all and from one IP address.
//!
//! A connection counts from before its handshake until its session is dropped, which is after its goodbye. The scarce
//! resource is descriptors: without a free one, no connection can be accepted, not even to be refused. So the limit
//! should be lower than the number of descriptors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use glockd_transports::{Peer, Session};
use parking_lot::Mutex;
use tokio::time::timeout;
use tracing::warn;

use crate::core::slots::Slots;
use crate::server::log_throttle::LogThrottle;

/// Number of addresses without connections that are kept, in addition to as many as have connections.
const IDLE_SOURCES: usize = 64;

/// Time that a goodbye may take. A peer that does not answer it by then is considered gone.
const GOODBYE: Duration = Duration::from_secs(2);

/// Maximum number of connections; `None` means unlimited.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capacity {
    /// From all addresses together.
    pub(crate) in_all: Option<usize>,
    /// From one IP address.
    pub(crate) per_ip: Option<usize>,
}

/// Admits connections, and counts them.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: Capacity,
    /// Source of the connections that have no IP address, and of all if `per_ip` is unlimited.
    anywhere: Arc<Source>,
    sources: Mutex<Sources>,
    refused: Mutex<LogThrottle>,
    refused_from_ip: Mutex<LogThrottle>,
}

/// An IP address from which clients connect, or everything that has no IP address.
#[derive(Debug)]
struct Source {
    slots: Slots,
    slots_in_all: Arc<Slots>,
}

#[derive(Debug, Default)]
struct Sources {
    by_ip: HashMap<IpAddr, Arc<Source>>,
    /// Number of addresses beyond which those without connections are removed.
    threshold: usize,
}

/// A slot taken by an admitted connection, which counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Source>);

/// The session of an admitted connection.
pub(crate) struct Admitted {
    pub(crate) session: Box<dyn Session>,
    // Dropped after the session, since fields are dropped in their order.
    _permit: Permit,
}

impl Admission {
    pub(crate) fn new(capacity: Capacity) -> Admission {
        let anywhere = Source {
            slots: Slots::new(None),
            slots_in_all: Arc::new(Slots::new(capacity.in_all)),
        };
        Admission {
            capacity,
            anywhere: Arc::new(anywhere),
            sources: Mutex::default(),
            refused: Mutex::default(),
            refused_from_ip: Mutex::default(),
        }
    }

    /// Admits a connection, unless a limit is reached. Logs a refusal, rate-limited.
    pub(crate) fn admit(&self, peer: &Peer) -> Option<Permit> {
        let source = match (self.capacity.per_ip, peer.ip()) {
            (Some(slots), Some(ip)) => self.source(ip, slots),
            _ => Arc::clone(&self.anywhere),
        };
        if !source.slots_in_all.try_acquire() {
            if let Some(refused) = self.refused.lock().record() {
                let limit = self.capacity.in_all;
                warn!(%peer, refused, limit, "connection refused: the maximum number of connections is reached");
            }
            return None;
        }
        if !source.slots.try_acquire() {
            source.slots_in_all.release(1);
            if let Some(refused) = self.refused_from_ip.lock().record() {
                let limit = self.capacity.per_ip;
                warn!(%peer, refused, limit, "connection refused: the maximum number of connections from its address is reached");
            }
            return None;
        }
        Some(Permit(source))
    }

    fn source(&self, ip: IpAddr, slots: usize) -> Arc<Source> {
        let Sources { by_ip, threshold } = &mut *self.sources.lock();
        if by_ip.len() > *threshold {
            by_ip.retain(|_, source| Arc::strong_count(source) > 1);
            *threshold = 2 * by_ip.len() + IDLE_SOURCES;
        }
        let source = by_ip.entry(ip).or_insert_with(|| {
            Arc::new(Source {
                slots: Slots::new(Some(slots)),
                slots_in_all: Arc::clone(&self.anywhere.slots_in_all),
            })
        });
        Arc::clone(source)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.slots.release(1);
        self.0.slots_in_all.release(1);
    }
}

impl Admitted {
    pub(crate) fn new(session: Box<dyn Session>, permit: Permit) -> Admitted {
        Admitted {
            session,
            _permit: permit,
        }
    }

    /// Says goodbye to the peer, for two seconds at most, and drops the session.
    pub(crate) async fn say_goodbye(self) {
        // A session that takes longer is dropped, which closes it.
        let _ = timeout(GOODBYE, self.session.close()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use glockd_transports::{Input, Output};

    use super::*;

    fn from(ip: &str) -> Peer {
        Peer::new("x").with_ip(ip.parse().unwrap())
    }

    #[test]
    fn connections_beyond_a_limit_are_refused() {
        let admission = Admission::new(Capacity {
            in_all: Some(3),
            per_ip: Some(2),
        });
        let admit = |peer: &Peer| admission.admit(peer);
        let (a, b) = (from("10.0.0.1"), from("::1"));
        let first = admit(&a).unwrap();
        let second = admit(&a).unwrap();
        assert!(admit(&from("::ffff:10.0.0.1")).is_none());
        // A peer without an IP address counts in all only.
        let third = admit(&Peer::new("unix:1")).unwrap();
        assert!(admit(&b).is_none());
        drop(first);
        let fourth = admit(&b).unwrap();
        assert!(admit(&a).is_none());
        drop((second, third));
        assert!(admit(&b).is_some());
        drop(fourth);
        assert!((0..10).all(|_| admit(&a).is_some()));
    }

    /// The session that has the only slot. It counts how often the slot was still taken while the session existed.
    struct Last {
        admission: Arc<Admission>,
        taken: Arc<AtomicUsize>,
        /// False if its goodbye never ends.
        says_goodbye: bool,
    }

    impl Last {
        fn check_slot(&self) {
            if self.admission.admit(&Peer::new("next")).is_none() {
                self.taken.fetch_add(1, SeqCst);
            }
        }
    }

    #[async_trait::async_trait]
    impl Session for Last {
        async fn recv(&mut self, _: &mut Input) -> io::Result<usize> {
            Ok(0)
        }

        async fn send(&mut self, _: &mut Output) -> io::Result<()> {
            Ok(())
        }

        async fn close(self: Box<Self>) {
            self.check_slot();
            if !self.says_goodbye {
                std::future::pending::<()>().await;
            }
        }
    }

    impl Drop for Last {
        fn drop(&mut self) {
            self.check_slot();
        }
    }

    /// Otherwise there could be one descriptor more than the limit allows.
    #[tokio::test(start_paused = true)]
    async fn slot_is_released_after_its_session_is_dropped() {
        let admission = Arc::new(Admission::new(Capacity {
            in_all: Some(1),
            per_ip: None,
        }));
        let taken = Arc::new(AtomicUsize::new(0));
        let admit = |says_goodbye| {
            let session = Last {
                admission: Arc::clone(&admission),
                taken: Arc::clone(&taken),
                says_goodbye,
            };
            let permit = admission.admit(&Peer::new("last")).unwrap();
            Admitted::new(Box::new(session), permit)
        };
        drop(admit(true));
        assert_eq!(taken.swap(0, SeqCst), 1, "dropped");
        let goodbyes = async {
            admit(true).say_goodbye().await;
            assert_eq!(taken.swap(0, SeqCst), 2, "closed, and dropped");
            admit(false).say_goodbye().await;
            assert_eq!(taken.swap(0, SeqCst), 2, "closed in vain, and dropped");
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, goodbyes).await.unwrap();
        assert!(admission.admit(&Peer::new("next")).is_some());
    }

    #[test]
    fn addresses_without_connections_are_removed() {
        let admission = Admission::new(Capacity {
            in_all: None,
            per_ip: Some(1),
        });
        let stays = admission.admit(&from("10.1.0.0")).unwrap();
        for number in 0..100_000u32 {
            admission.admit(&from(&std::net::Ipv4Addr::from(number).to_string()));
        }
        assert!(admission.sources.lock().by_ip.len() <= 2 * IDLE_SOURCES);
        assert!(admission.admit(&from("10.1.0.0")).is_none());
        drop(stays);
        assert!(admission.admit(&from("10.1.0.0")).is_some());
    }
}
