//! Who is let in: how many connections there may be, in all and from one IP address.
//!
//! A connection counts from before its handshake until its session is dropped, goodbye included, because
//! descriptors are what runs out: without one nothing can be accepted, not even to be turned away. So the
//! limit is to be set below theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use glockd_transports::{Peer, Session};
use parking_lot::Mutex;
use tracing::warn;

use crate::core::slots::Slots;
use crate::server::log_throttle::LogThrottle;

/// Addresses that are kept in mind though nobody is connected from there any more, beside as many as there
/// are others.
const IDLE_SOURCES: usize = 64;

/// How many connections there may be; `None`: any number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capacity {
    pub(crate) in_all: Option<usize>,
    pub(crate) per_ip: Option<usize>,
}

/// Lets connections in, and counts them.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: Capacity,
    /// Where everybody comes from, unless addresses are told apart.
    anywhere: Arc<Source>,
    sources: Mutex<Sources>,
    refused: Mutex<LogThrottle>,
    refused_from_ip: Mutex<LogThrottle>,
}

/// Where connections come from.
#[derive(Debug)]
struct Source {
    places: Slots,
    places_in_all: Arc<Slots>,
}

#[derive(Debug, Default)]
struct Sources {
    by_ip: HashMap<IpAddr, Arc<Source>>,
    /// How many there may be before those are forgotten that nobody is connected from.
    enough: usize,
}

/// A connection that was let in. It counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Source>);

/// The session of a connection that was let in.
pub(crate) struct Admitted {
    pub(crate) session: Box<dyn Session>,
    // Dropped after the session, since fields are dropped in their order.
    _permit: Permit,
}

impl Admission {
    pub(crate) fn new(capacity: Capacity) -> Admission {
        let anywhere = Source {
            places: Slots::new(None),
            places_in_all: Arc::new(Slots::new(capacity.in_all)),
        };
        Admission {
            capacity,
            anywhere: Arc::new(anywhere),
            sources: Mutex::default(),
            refused: Mutex::default(),
            refused_from_ip: Mutex::default(),
        }
    }

    /// Lets a connection in, if there is room for it. If not, the log says why, now and then.
    pub(crate) fn admit(&self, peer: &Peer) -> Option<Permit> {
        let source = match (self.capacity.per_ip, peer.ip()) {
            (Some(places), Some(ip)) => self.source(ip, places),
            _ => Arc::clone(&self.anywhere),
        };
        if !source.places_in_all.take() {
            if let Some(refused) = self.refused.lock().happened() {
                let limit = self.capacity.in_all;
                warn!(%peer, refused, limit, "connection refused: there are as many as there may be");
            }
            return None;
        }
        if !source.places.take() {
            source.places_in_all.give_back(1);
            if let Some(refused) = self.refused_from_ip.lock().happened() {
                let limit = self.capacity.per_ip;
                warn!(%peer, refused, limit, "connection refused: as many are from its address");
            }
            return None;
        }
        Some(Permit(source))
    }

    fn source(&self, ip: IpAddr, places: usize) -> Arc<Source> {
        let Sources { by_ip, enough } = &mut *self.sources.lock();
        if by_ip.len() > *enough {
            by_ip.retain(|_, source| Arc::strong_count(source) > 1);
            *enough = 2 * by_ip.len() + IDLE_SOURCES;
        }
        let source = by_ip.entry(ip).or_insert_with(|| {
            Arc::new(Source {
                places: Slots::new(Some(places)),
                places_in_all: Arc::clone(&self.anywhere.places_in_all),
            })
        });
        Arc::clone(source)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.places.give_back(1);
        self.0.places_in_all.give_back(1);
    }
}

impl Admitted {
    pub(crate) fn new(session: Box<dyn Session>, permit: Permit) -> Admitted {
        Admitted {
            session,
            _permit: permit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use glockd_transports::Frames;

    use super::*;
    use crate::server::connection::say_goodbye;

    fn from(ip: &str) -> Peer {
        Peer::new("x").with_ip(ip.parse().unwrap())
    }

    #[test]
    fn as_many_are_let_in_as_there_is_room_for() {
        let admission = Admission::new(Capacity {
            in_all: Some(3),
            per_ip: Some(2),
        });
        let admit = |peer: &Peer| admission.admit(peer);
        let (a, b) = (from("10.0.0.1"), from("::1"));
        let first = admit(&a).unwrap();
        let second = admit(&a).unwrap();
        assert!(admit(&from("::ffff:10.0.0.1")).is_none());
        // Who comes from no address counts in all alone.
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

    /// A session in the only place. It counts how often that was still taken while there was a descriptor.
    struct Last {
        admission: Arc<Admission>,
        taken: Arc<AtomicUsize>,
        says_goodbye: bool,
    }

    impl Last {
        fn look(&self) {
            if self.admission.admit(&Peer::new("next")).is_none() {
                self.taken.fetch_add(1, SeqCst);
            }
        }
    }

    #[async_trait::async_trait]
    impl Session for Last {
        async fn recv(&mut self, _: &mut Frames) -> io::Result<usize> {
            Ok(0)
        }

        async fn send(&mut self, _: &Frames) -> io::Result<()> {
            Ok(())
        }

        async fn close(self: Box<Self>) {
            self.look();
            if !self.says_goodbye {
                std::future::pending::<()>().await;
            }
        }
    }

    impl Drop for Last {
        fn drop(&mut self) {
            self.look();
        }
    }

    /// Without that, there may be one descriptor more than the limit says.
    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_only_after_its_session_has_ended() {
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
            say_goodbye(admit(true)).await;
            assert_eq!(taken.swap(0, SeqCst), 2, "closed, and dropped");
            say_goodbye(admit(false)).await;
            assert_eq!(taken.swap(0, SeqCst), 2, "closed in vain, and dropped");
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, goodbyes).await.unwrap();
        assert!(admission.admit(&Peer::new("next")).is_some());
    }

    #[test]
    fn addresses_are_forgotten() {
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
