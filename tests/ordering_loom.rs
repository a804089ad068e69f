//! The ordering of the engine's own code, letter by letter, in every interleaving that loom can find.
//!
//! ```text
//! RUSTFLAGS="--cfg quietus_loom" cargo test --release -p quietus --test ordering_loom
//! ```
//!
//! Each model runs twice, once per stand-in for the asymmetric fence. docs/ORDERING.md says which letter is borne by
//! which model, and which mutations each was seen to catch. (Above 500 lines: one table of models, which share what they start from.)
#![cfg(quietus_loom)]

use quietus::model::{Engine, Link, Object, Reader, StandIn, check, cpu, interrupt, thread};
use std::sync::Arc;

/// What every model starts from: object 0 is linked, object 1 will replace it.
struct World {
    engine: Engine,
    objects: [Arc<Object>; 2],
    link: Arc<Link<'static>>,
}

impl World {
    fn new() -> World {
        World::over(Engine::new())
    }

    fn over(engine: Engine) -> World {
        let objects = [Object::new(), Object::new()];
        let link = Link::new(Some(&objects[0]));
        World { engine, objects, link }
    }

    fn unlink(&self) {
        self.link.publish(Some(&self.objects[1]));
    }

    fn free(&self) {
        self.objects[0].free();
    }

    /// A thread with a slot.
    fn reader(&self, id: usize, f: impl FnOnce(Reader, &Link<'static>) + 'static) -> thread::JoinHandle<()> {
        let (slot, link) = (self.engine.slot(), self.link.clone());
        thread::spawn(move || cpu(id, || f(slot, &link)))
    }
}

fn both(cpus: usize, bound: Option<usize>, model: impl Fn() + Sync + Send + Clone + 'static) {
    for stand_in in [StandIn::Sc, StandIn::Ipi] {
        let started = std::time::Instant::now();
        let executions = check(stand_in, cpus, bound, model.clone());
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        println!("{name} {stand_in:?}: {executions} executions, {:.1?}", started.elapsed());
    }
}

/// A, B, C: one section against one grace period.
#[test]
fn one_section() {
    both(1, None, || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            let guard = reader.enter();
            link.follow(&guard);
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// D: the second section of a slot must not hide the end of its first.
#[test]
fn two_sections() {
    both(1, Some(3), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            for _ in 0..2 {
                let guard = reader.enter_outermost();
                link.follow(&guard);
            }
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// E, F, G: one thread unlinks and only polls, another drives a grace period of its own.
#[test]
fn cookie() {
    both(3, Some(2), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            let guard = reader.enter();
            link.follow(&guard);
        });
        let engine = world.engine.clone();
        let driver = thread::spawn(move || {
            cpu(1, || {
                let cookie = engine.start();
                engine.advance(cookie);
            })
        });
        cpu(2, || {
            world.unlink();
            let cookie = world.engine.start();
            interrupt();
            if world.engine.elapsed(cookie) {
                world.free();
            }
        });
        driver.join().unwrap();
        reader.join().unwrap();
    });
}

/// E: the driver has taken no number of its own, so that its load of the sequence is all that orders the unlink before
/// its heavy fence.
#[test]
fn cookie_of_another_thread() {
    both(3, Some(2), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            let guard = reader.enter();
            link.follow(&guard);
        });
        let engine = world.engine.clone();
        let driver = thread::spawn(move || {
            cpu(1, || {
                engine.advance(2);
            })
        });
        cpu(2, || {
            world.unlink();
            let cookie = world.engine.start();
            interrupt();
            if world.engine.elapsed(cookie) {
                world.free();
            }
        });
        driver.join().unwrap();
        reader.join().unwrap();
    });
}

/// H: a grace period that one thread fences and another completes.
#[test]
fn two_drivers() {
    both(3, Some(2), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            let guard = reader.enter();
            link.follow(&guard);
        });
        let engine = world.engine.clone();
        let driver = thread::spawn(move || {
            cpu(1, || {
                let cookie = engine.start();
                engine.advance(cookie);
            })
        });
        cpu(2, || {
            world.unlink();
            let cookie = world.engine.start();
            interrupt();
            if world.engine.advance(cookie) {
                world.free();
            }
        });
        driver.join().unwrap();
        reader.join().unwrap();
    });
}

/// H: a scan that is continued uses the number that was fenced, although the sequence has moved on.
#[test]
fn continued_scan() {
    both(1, Some(3), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            for _ in 0..2 {
                let guard = reader.enter();
                link.follow(&guard);
            }
        });
        let early = world.engine.start();
        world.engine.advance(early);
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(early) && world.engine.elapsed(cookie) || world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// I: a thread registers while a grace period runs.
#[test]
fn registration() {
    both(1, Some(3), || {
        let world = World::new();
        // Somebody else is registered, so the membarrier is not skipped.
        let _idle = world.engine.slot();
        let (engine, link) = (world.engine.clone(), world.link.clone());
        let reader = thread::spawn(move || {
            cpu(0, || {
                let reader = engine.register();
                let guard = reader.enter();
                link.follow(&guard);
            })
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// I, B: nobody else is registered, so the membarrier is skipped; and then somebody is.
#[test]
fn registration_skip() {
    both(1, Some(3), || {
        let world = World::new();
        let (engine, link) = (world.engine.clone(), world.link.clone());
        let reader = thread::spawn(move || {
            cpu(0, || {
                let reader = engine.register();
                let guard = reader.enter();
                link.follow(&guard);
            })
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// I: two threads register at once, where `idle` slots have an owner and `vacant` ones had one.
fn two_register(bound: usize, idle: usize, vacant: usize) {
    both(2, Some(bound), move || {
        let world = World::new();
        let mut idle: Vec<_> = (0..idle + vacant).map(|_| world.engine.slot()).collect();
        idle.drain(..vacant).for_each(Reader::give_back);
        let readers = [0, 1].map(|id| {
            let (engine, link) = (world.engine.clone(), world.link.clone());
            thread::spawn(move || {
                cpu(id, || {
                    let reader = engine.register();
                    link.follow(&reader.enter());
                    reader
                })
            })
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        let [first, second] = readers.map(|reader| reader.join().unwrap());
        assert!(!first.has_slot_of(&second));
    });
}

/// Each makes a chunk of one slot, and pushes it.
#[test]
fn registrations_at_once_two_chunks() {
    two_register(2, 0, 0);
}

/// Each makes a chunk of two; the second finds room in the first one's.
#[test]
fn registrations_at_once_one_chunk() {
    two_register(1, 2, 0);
}

/// Both want the slot that is vacant.
#[test]
fn registrations_at_once_one_slot() {
    two_register(2, 1, 1);
}

/// J: one thread gives its slot up, another claims it.
#[test]
fn slot_reuse() {
    both(2, Some(2), || {
        let world = World::new();
        let first = world.reader(0, |reader, link| {
            let guard = reader.enter();
            link.follow(&guard);
            drop(guard);
            reader.give_back();
        });
        let (engine, link) = (world.engine.clone(), world.link.clone());
        let second = thread::spawn(move || {
            cpu(1, || {
                let reader = engine.register();
                let guard = reader.enter();
                link.follow(&guard);
            })
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// K: a section that moves to the current number without a fence.
#[test]
fn repin() {
    both(1, Some(3), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            let mut guard = reader.enter();
            link.follow(&guard);
            guard.repin();
            link.follow(&guard);
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// The slot clears when the last guard goes, whichever that is, and `repin` beside another guard does nothing.
#[test]
fn guards_in_any_order() {
    both(1, Some(3), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            let outer = reader.enter();
            let mut inner = reader.enter();
            let object = link.load(&outer).unwrap();
            inner.repin();
            object.read();
            drop(outer);
            link.follow(&inner);
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// B, nested: a signal handler pins between the outer entry's store and its fence.
#[test]
fn signal_in_entry() {
    both(1, Some(3), || {
        let world = World::new();
        let reader = world.reader(0, |reader, link| {
            let _outer = reader.enter_interrupted(|| {
                let inner = reader.enter();
                link.follow(&inner);
            });
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// T: whoever sees a pointer sees what it points to.
#[test]
fn publication() {
    both(1, None, || {
        let world = World::new();
        let link = Link::new(None);
        let reader = {
            let (slot, link) = (world.engine.slot(), link.clone());
            thread::spawn(move || {
                cpu(0, || {
                    let guard = slot.enter();
                    assert!(matches!(link.follow(&guard), None | Some(7)));
                })
            })
        };
        world.objects[1].write(7);
        link.publish(Some(&world.objects[1]));
        reader.join().unwrap();
    });
}

/// A qsbr engine asks for no heavy fence, so that there is nothing to stand in for.
fn qsbr(bound: Option<usize>, model: impl Fn(World) + Sync + Send + 'static) {
    let executions = check(StandIn::Sc, 0, bound, move || model(World::over(Engine::qsbr())));
    println!("{}: {executions} executions", std::thread::current().name().unwrap_or("?"));
}

/// L, C: a thread that comes online against one grace period.
#[test]
fn coming_online() {
    qsbr(None, |world| {
        let reader = world.reader(0, |reader, link| {
            link.follow(&reader.online());
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// L, D: offline and online again, with the same slot.
#[test]
fn online_again() {
    qsbr(Some(3), |world| {
        let reader = world.reader(0, |reader, link| {
            for _ in 0..2 {
                link.follow(&reader.online());
            }
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// K: a quiescent state, without a fence.
#[test]
fn quiescent() {
    qsbr(Some(3), |world| {
        let reader = world.reader(0, |reader, link| {
            let mut online = reader.online();
            for _ in 0..2 {
                link.follow(&online);
                online.quiescent();
            }
            link.follow(&online);
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) || world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// L, I: a thread registers, and comes online, while a grace period runs.
#[test]
fn registration_online() {
    qsbr(Some(3), |world| {
        let (engine, link) = (world.engine.clone(), world.link.clone());
        let reader = thread::spawn(move || {
            let reader = engine.register();
            let mut online = reader.online();
            link.follow(&online);
            online.quiescent();
            link.follow(&online);
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.advance(cookie) {
            world.free();
        }
        reader.join().unwrap();
    });
}

/// L, E, G: one thread unlinks and only polls, another drives.
#[test]
fn cookie_online() {
    qsbr(Some(3), |world| {
        let reader = world.reader(0, |reader, link| {
            let mut online = reader.online();
            link.follow(&online);
            online.quiescent();
            link.follow(&online);
        });
        let engine = world.engine.clone();
        let driver = thread::spawn(move || {
            engine.advance(2);
        });
        world.unlink();
        let cookie = world.engine.start();
        if world.engine.elapsed(cookie) {
            world.free();
        }
        driver.join().unwrap();
        reader.join().unwrap();
    });
}
