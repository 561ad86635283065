//! Lazy filesystem work. A [`Node`] says how to make trees from other trees; nothing happens until it is evaluated, and its
//! [`Key`] — a digest of the operation and of its inputs' keys — is what the persistent cache knows it by.

mod edit;
pub mod exec;
pub(crate) mod made;
mod solve;

use std::sync::{Arc, OnceLock};

pub use edit::{Conflict, CopyKind, Edit, Which};
use graph::error::Error;
pub use solve::Outcome;
use store::Snapshot;

use self::exec::ExecPlan;
use crate::container::image::ImagePin;

/// Names a node's results: blake3 over the operation and its inputs' keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// Collects what a key depends on. Every part is length-prefixed: different parts never run together.
pub struct KeyHasher(blake3::Hasher);

impl KeyHasher {
    /// Starts a key of this kind of operation.
    pub fn new(kind: &str) -> Self {
        let mut h = Self(blake3::Hasher::new());
        h.str(kind);
        h
    }

    /// Adds bytes.
    pub fn bytes(&mut self, b: &[u8]) -> &mut Self {
        self.0.update(&(b.len() as u64).to_le_bytes());
        self.0.update(b);
        self
    }

    /// Adds a string.
    pub fn str(&mut self, s: &str) -> &mut Self {
        self.bytes(s.as_bytes())
    }

    /// Adds a number.
    pub fn num(&mut self, n: u64) -> &mut Self {
        self.0.update(&n.to_le_bytes());
        self
    }

    /// Adds an optional number.
    pub fn opt(&mut self, n: Option<u64>) -> &mut Self {
        self.num(u64::from(n.is_some())).num(n.unwrap_or(0))
    }

    /// Adds a list of strings.
    pub fn list<S: AsRef<str>>(&mut self, items: &[S]) -> &mut Self {
        self.num(items.len() as u64);
        for s in items {
            self.str(s.as_ref());
        }
        self
    }

    /// Adds another node's output.
    pub fn output(&mut self, o: &Output) -> &mut Self {
        self.0.update(&o.node.key.0);
        self.num(u64::from(o.index))
    }

    /// The key.
    pub fn finish(&self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }
}

/// What a node does.
#[derive(Debug)]
pub enum Op {
    /// A tree already at hand: an uploaded host directory.
    Given(Snapshot),
    /// A tree that could not be had. Its users learn why, and nobody else.
    Failed(Error),
    /// The root filesystem of an image.
    Image(ImagePin),
    /// The files of a Git commit.
    Checkout(Box<crate::git::Checkout>),
    /// A change of the first input's tree.
    Edit(Edit),
    /// A process run over the inputs. Output 0 is the root filesystem, then one per writable directory mount.
    Exec(Box<ExecPlan>),
}

/// One piece of lazy work.
#[derive(Debug)]
pub struct Node {
    /// Names the results.
    pub key: Key,
    /// What to do.
    pub op: Op,
    /// The trees it works on; what each is for depends on the operation. `None` is the empty tree.
    pub inputs: Vec<Option<Output>>,
    done: OnceLock<Arc<Done>>,
}

/// One of a node's trees.
#[derive(Debug, Clone)]
pub struct Output {
    /// Who makes it.
    pub node: Arc<Node>,
    /// Which of its outputs.
    pub index: u32,
}

/// What a node made.
#[derive(Debug)]
pub struct Done {
    /// Its trees.
    pub outputs: Vec<Snapshot>,
    /// What an exec said and how it ended.
    pub exec: Option<exec::ExecResult>,
}

impl Node {
    /// A node with its key.
    pub fn new(key: Key, op: Op, inputs: Vec<Option<Output>>) -> Arc<Self> {
        Arc::new(Self {
            key,
            op,
            inputs,
            done: OnceLock::new(),
        })
    }

    /// A tree known by its content digest.
    pub fn given(digest: &str, snapshot: Snapshot) -> Output {
        let key = KeyHasher::new("given").str(digest).finish();
        Output {
            node: Self::new(key, Op::Given(snapshot), vec![]),
            index: 0,
        }
    }

    /// A tree that could not be had. Never the same as another.
    pub fn failed(error: Error) -> Output {
        let key = KeyHasher::new("failed")
            .bytes(uuid::Uuid::new_v4().as_bytes())
            .finish();
        Output {
            node: Self::new(key, Op::Failed(error), vec![]),
            index: 0,
        }
    }

    /// An image's root filesystem.
    pub fn image(pin: ImagePin) -> Output {
        let key = KeyHasher::new("image").str(&pin.manifest_digest).finish();
        Output {
            node: Self::new(key, Op::Image(pin), vec![]),
            index: 0,
        }
    }

    /// A process over `inputs`, the root filesystem first.
    pub fn exec(plan: ExecPlan, inputs: Vec<Option<Output>>) -> Arc<Self> {
        let mut h = KeyHasher::new("exec 2");
        plan.add_to(&mut h);
        for i in &inputs {
            match i {
                Some(o) => h.output(o),
                None => h.str("empty"),
            };
        }
        Self::new(h.finish(), Op::Exec(Box::new(plan)), inputs)
    }

    /// `base` changed by `edit`; `sources` are the trees the edit copies from.
    pub fn edit(base: Option<Output>, edit: Edit, sources: Vec<Option<Output>>) -> Output {
        let mut h = KeyHasher::new("edit");
        edit.add_to(&mut h);
        let mut inputs = vec![base];
        inputs.extend(sources);
        for i in &inputs {
            match i {
                Some(o) => h.output(o),
                None => h.str("empty"),
            };
        }
        Output {
            node: Self::new(h.finish(), Op::Edit(edit), inputs),
            index: 0,
        }
    }
}

/// Chains are as long as clients make them: release them without recursion.
impl Drop for Node {
    fn drop(&mut self) {
        let mut pending: Vec<Output> = self.inputs.drain(..).flatten().collect();
        while let Some(o) = pending.pop() {
            if let Ok(mut node) = Arc::try_unwrap(o.node) {
                pending.extend(node.inputs.drain(..).flatten());
            }
        }
    }
}
