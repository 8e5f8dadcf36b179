//! What proves that a database was made here, and for which app.

use std::{fmt, str::FromStr};

use doorbell_config::name::AppId;
use uuid::Uuid;

use super::{Adopt, ProvisionError};

/// Who made a database, and for whom: a text that stands beside it on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Which Doorbell, or which registry that several share.
    pub installation: Uuid,
    /// The app.
    pub app: AppId,
    /// Which of the apps that have had this id: the registry's revision at which it was made.
    pub incarnation: u64,
}

/// What a marker that was found means to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is his.
    Ours,
    /// It was another's, and is to be his.
    ToAdopt,
}

impl Marker {
    /// What this means to the owner, if it lets him go on; else what stands in the way. `None` is
    /// something without a marker.
    pub(super) fn claim(&self, found: Option<&str>, adopt: Adopt) -> Result<Claim, String> {
        let Some(found) = found.and_then(|text| text.parse::<Self>().ok()) else {
            return Err("it is not Doorbell's, which leaves it alone".into());
        };
        // Replicas share what their app has.
        let own = Self { app: self.app.first(), ..self.clone() };
        let whose = match () {
            () if found == own => return Ok(Claim::Ours),
            () if found.app != own.app => {
                // Never to be had: two apps would have one.
                return Err(format!("it is of app \"{}\"", found.app));
            }
            () if adopt == Adopt::Yes => return Ok(Claim::ToAdopt),
            () if found.installation != self.installation => {
                format!("app \"{}\" of another Doorbell ({})", found.app, found.installation)
            }
            () => format!("an earlier app \"{}\" (of revision {})", found.app, found.incarnation),
        };
        Err(format!("it has the data of {whose}: adopt or remove it"))
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "doorbell {} {} {}", self.installation, self.app.app_str(), self.incarnation)
    }
}

impl FromStr for Marker {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.trim_end().split(' ');
        let (Some("doorbell"), Some(installation), Some(app), Some(incarnation), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return Err(());
        };
        Ok(Self {
            installation: installation.parse().map_err(drop)?,
            app: AppId::parse(app).map_err(drop)?,
            incarnation: incarnation.parse().map_err(drop)?,
        })
    }
}

/// The error of a name that is taken.
pub(super) fn taken(server: &str, what: &'static str, name: &str, why: String) -> ProvisionError {
    ProvisionError::NameTaken { server: server.into(), what, name: name.into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(app: &str, incarnation: u64) -> Marker {
        let app = AppId::parse(app).unwrap();
        Marker { installation: Uuid::from_u128(1), app, incarnation }
    }

    #[test]
    fn a_marker_is_read_as_it_is_written() {
        let text = marker("my-blog", 7).to_string();
        assert_eq!(text, "doorbell 00000000-0000-0000-0000-000000000001 my-blog 7");
        assert_eq!(text.parse(), Ok(marker("my-blog", 7)));
        for other in ["", "doorbell", "a comment of somebody else", &format!("{text} 8")] {
            assert!(other.parse::<Marker>().is_err(), "{other}");
        }
    }

    #[test]
    fn only_its_own_is_an_apps_unless_it_adopts_what_had_its_id() {
        let own = marker("blog", 7);
        let claim = |found: Option<Marker>, adopt| {
            own.claim(found.map(|found| found.to_string()).as_deref(), adopt)
        };
        assert_eq!(claim(Some(own.clone()), Adopt::No), Ok(Claim::Ours));
        assert!(claim(Some(marker("blog", 6)), Adopt::No).is_err());
        assert_eq!(claim(Some(marker("blog", 6)), Adopt::Yes), Ok(Claim::ToAdopt));
        let replica = Marker { app: own.app.replica(2), ..own.clone() };
        assert_eq!(replica.claim(Some(&own.to_string()), Adopt::No), Ok(Claim::Ours));
        let elsewhere = Marker { installation: Uuid::from_u128(2), ..own.clone() };
        assert!(claim(Some(elsewhere.clone()), Adopt::No).is_err());
        assert_eq!(claim(Some(elsewhere), Adopt::Yes), Ok(Claim::ToAdopt));
        assert!(claim(Some(marker("shop", 7)), Adopt::Yes).is_err());
        assert!(claim(None, Adopt::Yes).is_err());
    }
}
