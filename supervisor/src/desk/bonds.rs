//! Who needs whom, and what they know of each other.
//!
//! What an app's needs are like is told to those that need it, and what these take of it to the needed
//! ones, each by its neighbours alone: a change costs by those that it concerns. Apps without needs are
//! not here. The desk plays the events that come of a change.
//!
//! An app with several replicas *brings* the further ones: they are needed while it runs, and that is all
//! that they have to do with each other. It does not wait for them, nor do they stop before it.

use std::collections::HashMap;

use doorbell_config::name::AppId;

use crate::lifecycle::{Event, Hold, Needed, Needs};

/// Apps that need others, or are needed.
#[derive(Debug, Default)]
pub(super) struct Bonds(HashMap<AppId, Bond>);

/// What an app has to do with its neighbours.
#[derive(Debug, Default)]
struct Bond {
    needs: Vec<AppId>,
    dependants: Vec<AppId>,
    /// Something that it needs is not there.
    lacks: bool,
    /// How those that it needs are.
    needs_are: Needs,
    /// How it is itself, with those that it needs.
    standing: Needs,
    /// What is taken of those that it needs, by itself and those that need it.
    grip: Grip,
    /// Dependants that run, or are about to.
    runners: usize,
    /// Dependants that have an instance.
    instances: usize,
    /// Its further replicas.
    brings: Vec<AppId>,
    /// The app whose further replica it is.
    brought_by: Option<AppId>,
    /// What that wants of it.
    brought: Grip,
}

/// What is taken of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Grip {
    /// By somebody who runs, or is about to.
    runs: bool,
    /// By somebody who has an instance, frozen ones included.
    has_instance: bool,
}

impl Grip {
    fn of(hold: Hold) -> Self {
        let (runs, has_instance) = match hold {
            Hold::None => (false, false),
            Hold::Waits => (true, false),
            Hold::Asleep => (false, true),
            Hold::Awake => (true, true),
        };
        Self { runs, has_instance }
    }

    fn and(self, other: Self) -> Self {
        Self {
            runs: self.runs || other.runs,
            has_instance: self.has_instance || other.has_instance,
        }
    }
}

impl Bond {
    fn taken(&self) -> Grip {
        Grip { runs: self.runners > 0, has_instance: self.instances > 0 }.and(self.brought)
    }
}

impl Bonds {
    /// The bonds of these apps. What needs an app that is none of them lacks it for good. A need that
    /// closes a circle binds nobody: who defines apps is to refuse it, and no app must wait for itself.
    pub(super) fn of<'a>(apps: impl Iterator<Item = (&'a AppId, Vec<AppId>)>) -> Self {
        let mut bonds = Self::default();
        for (id, needs) in apps {
            for need in &needs {
                bonds.0.entry(need.clone()).or_default();
            }
            bonds.0.entry(id.clone()).or_default().needs = needs;
        }
        for (id, need) in bonds.closing() {
            tracing::error!(app = %id, %need, "needs itself: this need is passed over");
            if let Some(bond) = bonds.0.get_mut(&id) {
                bond.needs.retain(|other| *other != need);
            }
        }
        let edges: Vec<_> = bonds
            .0
            .iter()
            .flat_map(|(id, bond)| bond.needs.iter().map(|need| (need.clone(), id.clone())))
            .collect();
        for (need, id) in edges {
            bonds.0.entry(need).or_default().dependants.push(id);
        }
        bonds
    }

    /// Needs that close a circle. Without recursion, since chains may be long.
    fn closing(&self) -> Vec<(AppId, AppId)> {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Seen {
            Above,
            Done,
        }
        let mut seen: HashMap<&AppId, Seen> = HashMap::new();
        let mut closing = Vec::new();
        let mut roots: Vec<_> = self.0.keys().collect();
        roots.sort();
        for root in roots {
            let mut path = if seen.contains_key(root) { Vec::new() } else { vec![(root, 0)] };
            while let Some((id, followed)) = path.last_mut() {
                let (id, at) = (*id, *followed);
                *followed += 1;
                seen.insert(id, Seen::Above);
                let Some(need) = self.0.get(id).and_then(|bond| bond.needs.get(at)) else {
                    seen.insert(id, Seen::Done);
                    path.pop();
                    continue;
                };
                match seen.get(need) {
                    None => path.push((need, 0)),
                    Some(Seen::Above) => closing.push((id.clone(), need.clone())),
                    Some(Seen::Done) => {}
                }
            }
        }
        closing
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &AppId> {
        self.0.keys()
    }

    pub(super) fn knows(&self, id: &AppId) -> bool {
        self.0.contains_key(id)
    }

    /// The app needs something that is not there, and will not be before apps are defined anew.
    pub(super) fn lacks(&mut self, id: &AppId) {
        if let Some(bond) = self.0.get_mut(id) {
            bond.lacks = true;
            bond.needs_are = Needs::Off;
        }
    }

    /// The app brings these.
    pub(super) fn brings(&mut self, id: &AppId, replicas: Vec<AppId>) {
        for replica in &replicas {
            self.0.entry(replica.clone()).or_default().brought_by = Some(id.clone());
        }
        self.0.entry(id.clone()).or_default().brings = replicas;
    }

    /// Takes note of what an app wants of its further replicas; gives the events that come of it.
    pub(super) fn bring(&mut self, id: &AppId, hold: Hold) -> Vec<(AppId, Event)> {
        let grip = Grip::of(hold);
        let mut events = Vec::new();
        for replica in self.neighbours(id, |bond| &bond.brings) {
            let Some(bond) = self.0.get_mut(&replica) else { continue };
            let before = bond.taken();
            bond.brought = grip;
            if before != bond.taken() {
                events.push((replica, Event::NeededChanged));
            }
        }
        events
    }

    /// How those are that the app needs.
    pub(super) fn needs(&self, id: &AppId) -> Needs {
        self.0.get(id).map(|bond| bond.needs_are).unwrap_or_default()
    }

    /// How the app is for those that need it.
    pub(super) fn standing(&self, id: &AppId) -> Needs {
        self.0.get(id).map(|bond| bond.standing).unwrap_or_default()
    }

    /// Whether others need the app.
    pub(super) fn needed(&self, id: &AppId) -> Needed {
        match self.0.get(id).map(Bond::taken).unwrap_or_default() {
            Grip { runs: true, .. } => Needed::Awake,
            Grip { runs: false, has_instance: true } => Needed::Asleep,
            Grip { runs: false, has_instance: false } => Needed::No,
        }
    }

    /// Whether an app that needs it, directly or not, has an instance. Who needs an app needs all its
    /// replicas.
    pub(super) fn has_instances_above(&self, id: &AppId) -> bool {
        let bond = self.0.get(id);
        let first = bond.and_then(|bond| self.0.get(bond.brought_by.as_ref()?));
        bond.into_iter().chain(first).any(|bond| bond.instances > 0)
    }

    /// Takes note of how an app is; gives the events that come of it.
    pub(super) fn note(&mut self, id: &AppId, hold: Hold, own: Needs) -> Vec<(AppId, Event)> {
        let Some(bond) = self.0.get_mut(id) else { return Vec::new() };
        let standing = own.max(bond.needs_are);
        let grip = Grip::of(hold).and(bond.taken());
        let old_standing = std::mem::replace(&mut bond.standing, standing);
        let old_grip = std::mem::replace(&mut bond.grip, grip);
        let mut events = Vec::new();
        if old_standing != standing {
            for dependant in self.neighbours(id, |bond| &bond.dependants) {
                events.extend(self.look_at_needs(dependant));
            }
        }
        if old_grip != grip {
            for need in self.neighbours(id, |bond| &bond.needs) {
                events.extend(self.take_grip(need, old_grip, grip));
            }
        }
        events
    }

    fn neighbours(&self, id: &AppId, which: impl Fn(&Bond) -> &Vec<AppId>) -> Vec<AppId> {
        self.0.get(id).map(|bond| which(bond).clone()).unwrap_or_default()
    }

    fn look_at_needs(&mut self, id: AppId) -> Option<(AppId, Event)> {
        let bond = self.0.get(&id)?;
        let standings = bond.needs.iter().filter_map(|need| Some(self.0.get(need)?.standing));
        let worst = if bond.lacks { Needs::Off } else { standings.max().unwrap_or_default() };
        let bond = self.0.get_mut(&id)?;
        let before = std::mem::replace(&mut bond.needs_are, worst);
        (before != worst).then_some((id, Event::NeedsChanged))
    }

    fn take_grip(&mut self, id: AppId, old: Grip, new: Grip) -> Vec<(AppId, Event)> {
        let Some(bond) = self.0.get_mut(&id) else { return Vec::new() };
        let before = bond.taken();
        let changed = |count: &mut usize, old: bool, new: bool| match (old, new) {
            (false, true) => *count += 1,
            (true, false) => *count = count.saturating_sub(1),
            (false, false) | (true, true) => {}
        };
        changed(&mut bond.runners, old.runs, new.runs);
        changed(&mut bond.instances, old.has_instance, new.has_instance);
        if before == bond.taken() {
            return Vec::new();
        }
        // Its replicas go down with it, and so may have waited for the same.
        let told = [id].into_iter().chain(bond.brings.iter().cloned());
        told.map(|id| (id, Event::NeededChanged)).collect()
    }

    /// Those that an app needs, directly or not, each behind those that it needs itself.
    pub(super) fn all_needs(&self, id: &AppId) -> Vec<AppId> {
        let mut found = self.reach(id, |bond| &bond.needs);
        found.reverse();
        found
    }

    /// Those that need an app, directly or not, each behind those that need it.
    pub(super) fn all_dependants(&self, id: &AppId) -> Vec<AppId> {
        let mut found = self.reach(id, |bond| &bond.dependants);
        found.reverse();
        found
    }

    /// What is reached from an app, each behind all from where it is reached.
    fn reach(&self, id: &AppId, next: impl Fn(&Bond) -> &Vec<AppId>) -> Vec<AppId> {
        let mut open: HashMap<&AppId, usize> = HashMap::new();
        let mut seen = vec![id];
        let mut at = 0;
        while let Some(id) = seen.get(at) {
            at += 1;
            for reached in self.0.get(*id).into_iter().flat_map(&next) {
                let ways = open.entry(reached).or_default();
                *ways += 1;
                if *ways == 1 {
                    seen.push(reached);
                }
            }
        }
        let (mut ordered, mut free) = (Vec::new(), vec![id]);
        while let Some(id) = free.pop() {
            for reached in self.0.get(id).into_iter().flat_map(&next) {
                let Some(ways) = open.get_mut(reached) else { continue };
                *ways -= 1;
                if *ways == 0 {
                    free.push(reached);
                    ordered.push(reached.clone());
                }
            }
        }
        ordered
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn id(name: &str) -> AppId {
        AppId::parse(name).unwrap()
    }

    /// `web: api cache` for each app that needs others.
    fn bonds(text: &[&str]) -> (Bonds, Vec<AppId>) {
        let apps: Vec<(AppId, Vec<AppId>)> = text
            .iter()
            .map(|line| {
                let (app, needs) = line.split_once(':').unwrap();
                (id(app), needs.split_whitespace().map(id).collect())
            })
            .collect();
        let ids = apps.iter().map(|(id, _)| id.clone()).collect();
        (Bonds::of(apps.iter().map(|(id, needs)| (id, needs.clone()))), ids)
    }

    /// Notes a change and all that follow, as the desk does by playing events that change nothing.
    fn note(bonds: &mut Bonds, app: &str, hold: Hold, own: Needs) -> Vec<(String, Event)> {
        bonds.note(&id(app), hold, own).into_iter().map(|(id, e)| (id.to_string(), e)).collect()
    }

    #[test]
    fn what_happens_below_is_known_above_and_what_is_taken_above_is_known_below() {
        let (mut bonds, _) = bonds(&["web: api", "api: db", "db:"]);
        for app in ["web", "api", "db"] {
            note(&mut bonds, app, Hold::None, Needs::Coming);
        }
        assert_eq!(bonds.needs(&id("web")), Needs::Coming);
        let news = note(&mut bonds, "db", Hold::None, Needs::Off);
        assert_eq!(news, [("api".to_owned(), Event::NeedsChanged)]);
        let news = note(&mut bonds, "api", Hold::None, Needs::Coming);
        assert_eq!(news, [("web".to_owned(), Event::NeedsChanged)]);
        assert_eq!(bonds.needs(&id("web")), Needs::Off);

        let news = note(&mut bonds, "web", Hold::Asleep, Needs::Coming);
        assert_eq!(news, [("api".to_owned(), Event::NeededChanged)]);
        let news = note(&mut bonds, "api", Hold::None, Needs::Coming);
        assert_eq!(news, [("db".to_owned(), Event::NeededChanged)]);
        assert_eq!(bonds.needed(&id("db")), Needed::Asleep);
        assert!(bonds.has_instances_above(&id("db")));
    }

    #[test]
    fn waiting_takes_what_is_needed_and_is_no_instance() {
        let (mut bonds, _) = bonds(&["web: db", "shop: db", "db:"]);
        note(&mut bonds, "web", Hold::Waits, Needs::Coming);
        assert_eq!(bonds.needed(&id("db")), Needed::Awake);
        assert!(!bonds.has_instances_above(&id("db")));
        assert_eq!(note(&mut bonds, "shop", Hold::Waits, Needs::Coming), [], "known already");
        note(&mut bonds, "web", Hold::None, Needs::Coming);
        assert_eq!(bonds.needed(&id("db")), Needed::Awake);
        note(&mut bonds, "shop", Hold::None, Needs::Coming);
        assert_eq!(bonds.needed(&id("db")), Needed::No);
    }

    #[test]
    fn everything_is_behind_what_it_needs() {
        let (bonds, ids) =
            bonds(&["web: api cache", "api: db cache", "cache: disk", "db: disk", "disk:"]);
        let needs = bonds.all_needs(&id("web"));
        assert_eq!(needs.len(), 4);
        let at = |name: &str| needs.iter().position(|need| *need == id(name)).unwrap();
        assert!(at("disk") < at("db") && at("disk") < at("cache"));
        assert!(at("db") < at("api") && at("cache") < at("api"));
        let dependants = bonds.all_dependants(&id("disk"));
        assert_eq!((dependants.len(), &dependants[0]), (4, &id("web")));
        assert!(ids.iter().all(|id| bonds.knows(id)));
    }

    #[test]
    fn an_app_brings_its_replicas_and_they_do_not_hold_each_other() {
        let (mut bonds, ids) = bonds(&["web: blog", "blog:"]);
        let (blog, second) = (id("blog"), id("blog").replica(2));
        bonds.brings(&blog, vec![second.clone()]);
        assert!(bonds.bring(&blog, Hold::None).is_empty() && ids.contains(&blog));
        let news = bonds.bring(&blog, Hold::Waits);
        assert_eq!(news, [(second.clone(), Event::NeededChanged)]);
        assert_eq!((bonds.needed(&second), bonds.needed(&blog)), (Needed::Awake, Needed::No));
        assert_eq!(bonds.bring(&blog, Hold::Awake).len(), 1, "it has an instance now");
        assert!(!bonds.has_instances_above(&second), "it need not wait for the first to end");
        assert!(bonds.note(&second, Hold::None, Needs::Failed(Instant::now())).is_empty());
        assert_eq!(bonds.needs(&blog), Needs::Met, "nor does the first wait for it");
        bonds.bring(&blog, Hold::Asleep);
        assert_eq!(bonds.needed(&second), Needed::Asleep);
        // Who needs the app keeps all of it.
        let news = bonds.note(&id("web"), Hold::Awake, Needs::Met);
        assert_eq!(news, [(blog, Event::NeededChanged), (second.clone(), Event::NeededChanged)]);
        assert!(bonds.has_instances_above(&second));
    }

    #[test]
    fn a_circle_binds_nobody_and_a_long_chain_is_followed() {
        let (bonds, _) = bonds(&["a: b", "b: c", "c: a b"]);
        assert_eq!(bonds.all_needs(&id("a")), [id("c"), id("b")]);
        assert_eq!(bonds.all_needs(&id("c")), []);
        let link = |n: u32| (id(&format!("a{n}")), vec![id(&format!("a{}", n + 1))]);
        let chain: Vec<_> = (0..20_000).map(link).collect();
        let bonds = Bonds::of(chain.iter().map(|(id, needs)| (id, needs.clone())));
        assert_eq!(bonds.all_needs(&id("a0")).len(), 20_000);
    }
}
