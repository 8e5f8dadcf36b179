//! What differs between two configurations, so that a change costs by what changed.

use std::{collections::HashMap, sync::Arc};

use doorbell_config::{name::AppId, spec::AppSpec};

/// What one list of apps has that another had not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// New apps and changed ones, in order.
    pub put: Vec<Arc<AppSpec>>,
    /// Apps that are no more.
    pub gone: Vec<AppId>,
}

impl Difference {
    /// Compares two lists. Where both hold the same `Arc`s in the same order, that takes a look at
    /// each; only between the first and the last that differ are apps compared.
    #[must_use]
    pub fn between(old: &[Arc<AppSpec>], new: &[Arc<AppSpec>]) -> Self {
        let same = |(old, new): &(&Arc<AppSpec>, &Arc<AppSpec>)| Arc::ptr_eq(old, new);
        let front = old.iter().zip(new).take_while(same).count();
        let (old, new) = (&old[front..], &new[front..]);
        let back = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
        let (old, new) = (&old[..old.len() - back], &new[..new.len() - back]);
        let mut before: HashMap<&AppId, &Arc<AppSpec>> =
            old.iter().map(|app| (&app.id, app)).collect();
        let is_changed = |app: &&Arc<AppSpec>| before.remove(&app.id).is_none_or(|old| old != *app);
        let put = new.iter().filter(is_changed).cloned().collect();
        Self { put, gone: before.into_keys().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use doorbell_config::spec::{Backend, RouteSpec, UpstreamSpec};

    use super::*;

    fn app(id: &str, http2: bool) -> Arc<AppSpec> {
        let backend = Backend::Upstream(UpstreamSpec::new(Vec::new()).into());
        let routes = RouteSpec::new(Vec::new(), Vec::new());
        let mut spec = AppSpec::new(AppId::parse(id).unwrap(), routes, backend);
        spec.http2 = http2;
        Arc::new(spec)
    }

    #[test]
    fn only_what_differs_is_told() {
        let old: Vec<_> = ["a", "b", "c", "d"].map(|id| app(id, false)).into();
        assert_eq!(Difference::between(&old, &old), Difference::default());
        let (fresh, changed) = (app("e", false), app("b", true));
        let new = [&old[0], &changed, &fresh, &app("c", false), &old[3]].map(Arc::clone);
        let difference = Difference::between(&old, &new);
        assert_eq!(difference, Difference { put: vec![changed, fresh], gone: Vec::new() });
        let gone = Difference::between(&old, &old[1..]);
        assert_eq!(gone, Difference { put: Vec::new(), gone: vec![old[0].id.clone()] });
        let swapped = [&old[1], &old[0], &old[2], &old[3]].map(Arc::clone);
        assert_eq!(Difference::between(&old, &swapped), Difference::default());
        assert_eq!(Difference::between(&[], &old).put, old);
    }
}
