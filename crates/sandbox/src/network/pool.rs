//! Namespaces made ahead of need, by one thread.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, mpsc};

use super::{
    Problem, Step, link,
    netlink::Socket,
    tenants::{Address, Tenants},
};

/// A namespace with its link, not yet anyone's.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) namespace: OwnedFd,
    pub(super) address: Address,
}

/// An attempt to make one, and when it ended.
type Attempt = (Result<Prepared, Arc<Problem>>, Instant);

/// The namespaces that are ready. The thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    ready: Mutex<mpsc::Receiver<Attempt>>,
}

/// After a failure the thread rests this long.
const REST: Duration = Duration::from_millis(100);
/// A failure older than this says nothing about now.
const STALE: Duration = Duration::from_secs(1);
/// A new link that does not work after this long never will.
const LINK: Duration = Duration::from_secs(5);
/// How often kernels that need time are asked.
const LOOK: Duration = Duration::from_millis(1);
/// The first device number for containers' links; lower ones are the kernel's.
const FIRST_INDEX: u32 = 100;

impl Pool {
    /// Starts making namespaces linked to `engine`, whose links `links` manages, until `size` are ready.
    pub(super) fn start(
        size: usize,
        engine: OwnedFd,
        links: Socket,
        tenants: Arc<Tenants>,
    ) -> Result<Pool, Problem> {
        // One more waits in the hand of the thread.
        let (made, ready) = mpsc::channel(size.clamp(1, 64));
        thread::Builder::new()
            .name("netns-pool".to_owned())
            .spawn(move || {
                let mut index = FIRST_INDEX;
                loop {
                    let attempt = make(&engine, &links, &tenants, index);
                    index = if index < i32::MAX.cast_unsigned() {
                        index + 1
                    } else {
                        FIRST_INDEX
                    };
                    let failed = attempt.is_err();
                    if made
                        .blocking_send((attempt.map_err(Arc::new), Instant::now()))
                        .is_err()
                    {
                        return;
                    }
                    if failed {
                        thread::sleep(REST);
                    }
                }
            })
            .why("start a thread")?;
        Ok(Pool {
            ready: Mutex::new(ready),
        })
    }

    /// The next one. First come, first served.
    pub(super) async fn take(&self) -> Result<Prepared, Arc<Problem>> {
        let mut ready = self.ready.lock().await;
        loop {
            match ready.recv().await {
                Some((Ok(prepared), _)) => return Ok(prepared),
                Some((Err(_), when)) if when.elapsed() > STALE => {}
                Some((Err(problem), _)) => return Err(problem),
                None => {
                    let gone = io::Error::other("the thread that makes them is gone");
                    return Err(gone).why("make a network namespace").map_err(Arc::new);
                }
            }
        }
    }
}

fn make(
    engine: &OwnedFd,
    links: &Socket,
    tenants: &Arc<Tenants>,
    index: u32,
) -> Result<Prepared, Problem> {
    let address = tenants.address()?;
    sys::netns::unshare().why("make a network namespace")?;
    let made = fill(links, tenants, &address, index);
    // The thread would keep the last one alive.
    let left = sys::netns::enter(engine.as_fd()).why("leave a network namespace");
    let namespace = made?;
    left?;
    Ok(Prepared { namespace, address })
}

/// Runs in the new namespace.
fn fill(
    links: &Socket,
    tenants: &Arc<Tenants>,
    address: &Address,
    index: u32,
) -> Result<OwnedFd, Problem> {
    let namespace = sys::netns::current().why("open a network namespace")?;
    // Without a route there is no use for link-local addresses, whose check for duplicates costs timers and packets.
    drop(super::namespace::set(
        "ipv6/conf/default/addr_gen_mode",
        "1",
    ));
    links
        .apply(&link::pair(
            tenants.subnet(),
            index,
            address.address(),
            namespace.as_fd(),
        ))
        .why("make a network link")?;
    let own = Socket::route().why("open a netlink socket")?;
    own.apply(&link::container(tenants.subnet(), address.address()))
        .why("set up a container's network link")?;
    wait(links, index)?;
    wait(&own, link::ETH0)?;
    Ok(namespace)
}

/// Waits until the link works.
fn wait(links: &Socket, index: u32) -> Result<(), Problem> {
    let begin = Instant::now();
    loop {
        let working = links.ask(&link::state_query(index), link::is_working);
        if working.why("see whether a network link works")? {
            return Ok(());
        }
        if begin.elapsed() > LINK {
            return Err(io::Error::from(io::ErrorKind::TimedOut))
                .why("wait for a network link to work");
        }
        thread::sleep(LOOK);
    }
}
