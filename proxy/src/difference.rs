//! What differs between two configurations, so that a change costs by what changed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use doorbell_config::{name::AppId, spec::AppSpec};

/// What one list of apps has that another had not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// New apps and changed ones, in order.
    pub put: Vec<Arc<AppSpec>>,
    /// Apps that are no more. Another one may have the id of one of them: it is put behind that.
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

    /// Adds apps that are no more though others in the new list have their ids, however alike.
    pub fn replace(&mut self, strangers: impl IntoIterator<Item = AppId>, new: &[Arc<AppSpec>]) {
        let mut strangers: HashSet<AppId> = strangers.into_iter().collect();
        strangers.retain(|app| !self.gone.contains(app));
        if strangers.is_empty() {
            return;
        }
        let replaced: Vec<_> = new.iter().filter(|app| strangers.contains(&app.id)).collect();
        let known: HashSet<_> = self.put.iter().map(|app| app.id.clone()).collect();
        self.gone.extend(replaced.iter().map(|app| app.id.clone()));
        self.put.extend(replaced.into_iter().filter(|app| !known.contains(&app.id)).cloned());
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

    #[test]
    fn another_app_of_an_id_is_a_difference_however_alike() {
        let old: Vec<_> = ["a", "b", "c", "d"].map(|id| app(id, false)).into();
        let (changed, id) = (app("b", true), |app: &Arc<AppSpec>| app.id.clone());
        let new = [&old[0], &changed, &old[2]].map(Arc::clone);
        let mut difference = Difference::between(&old, &new);
        difference.replace(old[1..].iter().map(id), &new);
        difference.gone.sort();
        let gone = old[1..].iter().map(id).collect();
        assert_eq!(difference, Difference { put: vec![changed, new[2].clone()], gone });
    }
}
