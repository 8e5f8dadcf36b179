//! The path claims of one host: a short list for the usual few, a map for hosts that thousands of
//! apps share.

use std::sync::Arc;

use super::{
    RouteKind, RouteMatch,
    depths::Depths,
    shards::{Keyed, ShardMap},
};
use crate::{
    name::{AppId, MAX_SEGMENTS, PathPrefix},
    spec::PrefixRule,
};

/// Up to here a scan beats hashing each prefix of the request's path.
const FEW: usize = 8;

/// One app's claim on one path prefix.
#[derive(Clone, Debug)]
pub(super) struct Claim<T> {
    pub(super) app: AppId,
    pub(super) prefix: PathPrefix,
    pub(super) rule: PrefixRule,
    pub(super) target: T,
}

impl<T> Claim<T> {
    pub(super) fn matched(&self) -> RouteMatch<'_, T> {
        RouteMatch {
            target: &self.target,
            kind: RouteKind::Claim,
            prefix_len: if self.prefix.is_root() { 0 } else { self.prefix.as_str().len() },
            rule: self.rule,
        }
    }
}

impl<T> Keyed for Claim<T> {
    fn key(&self) -> &str {
        self.prefix.as_str()
    }
}

/// The claims of one host, each prefix at most once.
#[derive(Clone, Debug)]
pub(super) struct PathClaims<T> {
    /// The claim on `/`, which most hosts have alone.
    root: Option<Claim<T>>,
    below: Below<T>,
}

/// Claims below `/`.
#[derive(Clone, Debug)]
enum Below<T> {
    /// Longest prefix first.
    Few(Vec<Claim<T>>),
    Many(Arc<Many<T>>),
}

#[derive(Clone, Debug)]
struct Many<T> {
    claims: ShardMap<Claim<T>>,
    segments: Depths<{ MAX_SEGMENTS + 1 }>,
}

impl<T: Clone> PathClaims<T> {
    pub(super) fn new() -> Self {
        Self { root: None, below: Below::Few(Vec::new()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        let nothing_below = match &self.below {
            Below::Few(claims) => claims.is_empty(),
            Below::Many(many) => many.claims.len() == 0,
        };
        nothing_below && self.root.is_none()
    }

    /// The claim with the longest prefix of `path`.
    pub(super) fn find(&self, path: &str) -> Option<&Claim<T>> {
        let below = match &self.below {
            Below::Few(claims) => claims.iter().find(|claim| claim.prefix.covers(path)),
            Below::Many(many) => many.find(path),
        };
        below.or(self.root.as_ref())
    }

    /// The claim on exactly this prefix.
    pub(super) fn exactly(&self, prefix: &PathPrefix) -> Option<&Claim<T>> {
        if prefix.is_root() {
            return self.root.as_ref();
        }
        match &self.below {
            Below::Few(claims) => claims.iter().find(|claim| claim.prefix == *prefix),
            Below::Many(many) => many.claims.find(prefix.as_str()),
        }
    }

    /// Adds a claim, in place of one on the same prefix.
    pub(super) fn insert(&mut self, claim: Claim<T>) {
        self.remove(&claim.prefix);
        if claim.prefix.is_root() {
            self.root = Some(claim);
            return;
        }
        if let Below::Few(claims) = &mut self.below {
            if claims.len() < FEW {
                let len = claim.prefix.as_str().len();
                let at = claims.partition_point(|other| other.prefix.as_str().len() > len);
                claims.insert(at, claim);
                return;
            }
            let mut many = Many { claims: ShardMap::new(), segments: Depths::new() };
            claims.drain(..).for_each(|claim| many.insert(claim));
            self.below = Below::Many(Arc::new(many));
        }
        if let Below::Many(many) = &mut self.below {
            Arc::make_mut(many).insert(claim);
        }
    }

    pub(super) fn remove(&mut self, prefix: &PathPrefix) {
        if prefix.is_root() {
            self.root = None;
            return;
        }
        match &mut self.below {
            Below::Few(claims) => claims.retain(|claim| claim.prefix != *prefix),
            Below::Many(many) => Arc::make_mut(many).remove(prefix),
        }
    }
}

impl<T: Clone> Many<T> {
    fn insert(&mut self, claim: Claim<T>) {
        self.segments.count(claim.prefix.segments(), true);
        self.claims.insert(claim);
    }

    fn remove(&mut self, prefix: &PathPrefix) {
        if self.claims.remove(prefix.as_str()) {
            self.segments.count(prefix.segments(), false);
        }
    }

    /// Looks up each prefix of `path` that ends at a segment boundary, longest first.
    ///
    /// Invariant: a prefix has at most [`MAX_SEGMENTS`] segments, so a path of any length costs
    /// at most that many look-ups; guarded by `a_path_of_slashes_costs_a_bounded_number_of_steps`.
    fn find(&self, path: &str) -> Option<&Claim<T>> {
        let mut ends = [0_usize; MAX_SEGMENTS + 1];
        let (mut segments, mut found) = (0, 0);
        for end in
            (1..=path.len()).filter(|&at| matches!(path.as_bytes().get(at), None | Some(b'/')))
        {
            segments += 1;
            if self.segments.contains(segments) {
                ends[found] = end;
                found += 1;
            }
            if segments >= self.segments.deepest() {
                break;
            }
        }
        ends[..found].iter().rev().find_map(|&end| self.claims.find(&path[..end]))
    }
}
