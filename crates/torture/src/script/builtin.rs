//! Plans that come with the program.

/// A plan file that is compiled in.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! plans {
    ($($name:literal),*) => {
        /// All of them.
        pub const ALL: &[Builtin] =
            &[$(Builtin { name: $name, text: include_str!(concat!("../../plans/", $name, ".toml")) }),*];
    };
}

plans!("smoke", "unbind", "rmmod", "storm", "races", "soak", "rescan", "failslab");

/// The one of this name.
pub fn find(name: &str) -> Option<Builtin> {
    ALL.iter().copied().find(|p| p.name == name)
}
