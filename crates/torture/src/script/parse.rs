//! Plan files: TOML, as docs/plans.md describes it. Errors name the line and the key.

use std::ops::Range;

use guest_agent::IrqKind;
use serde::Deserialize;
use toml::Spanned;

use super::Act;
use super::Choice;
use super::Lane;
use super::Script;
use super::Step;
use super::What;
use super::ENDPOINT;
use crate::stall::Access;
use crate::stall::StallRule;
use crate::stall::Until;

/// Version of the files that this code reads.
pub const SCHEMA: u32 = 1;
/// Longest that a stall lasts if the plan does not say, and at all, ms: the soft lockup detector of a held vCPU speaks after 20 s.
const STALL_MS: u64 = 5_000;
const MAX_STALL_MS: u64 = 15_000;
/// Bounds of a plan, so that a mistake is told and not run.
const MAX_LANES: usize = 16;
const MAX_DEPTH: u32 = 8;

/// Why a plan file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ParseError {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong, and what is right.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    schema: Spanned<u32>,
    name: Spanned<String>,
    #[serde(default)]
    about: String,
    cycles: Option<Spanned<u32>>,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawStep {
    op: Option<String>,
    one_of: Option<Vec<Spanned<RawChoice>>>,
    lanes: Option<Vec<Spanned<RawLane>>>,
    may_fail: Option<bool>,
    fail_nth: Option<toml::Value>,
    kind: Option<IrqKind>,
    vectors: Option<u32>,
    vector: Option<u32>,
    path: Option<String>,
    text: Option<String>,
    device: Option<String>,
    seconds: Option<u32>,
    cpu: Option<u32>,
    online: Option<bool>,
    cpus: Option<String>,
    ms: Option<u64>,
    read: Option<String>,
    write: Option<String>,
    nth: Option<u32>,
    vcpu: Option<u8>,
    until: Option<RawUntil>,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawUntil {
    read: Option<String>,
    write: Option<String>,
    nth: Option<u32>,
    delay_ms: Option<[u64; 2]>,
    reached: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawChoice {
    weight: Option<u32>,
    steps: Vec<Spanned<RawStep>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawLane {
    name: String,
    times: Option<u32>,
    cpu: Option<u32>,
    steps: Vec<Spanned<RawStep>>,
}

/// The plan in `text`.
pub fn parse(text: &str) -> Result<Script, ParseError> {
    let at = Lines(text);
    let file: File = toml::from_str(text).map_err(|e| ParseError {
        line: at.line(&e.span().unwrap_or(0..0)),
        why: e.message().trim_end().replace('\n', ", "),
    })?;
    if *file.schema.get_ref() != SCHEMA {
        return at.wrong(&file.schema.span(), format!("schema is {SCHEMA}"));
    }
    let named = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if file.name.get_ref().is_empty() || !file.name.get_ref().chars().all(named) {
        return at.wrong(&file.name.span(), "name has letters, digits and - only");
    }
    if let Some(c) = file.cycles.as_ref().filter(|c| *c.get_ref() == 0) {
        return at.wrong(&c.span(), "cycles is 1 or more");
    }
    if file.step.is_empty() {
        return at.wrong(&(0..0), "there is no [[step]]");
    }
    Ok(Script {
        name: file.name.into_inner(),
        about: file.about,
        cycles: file.cycles.map(Spanned::into_inner),
        steps: at.steps(file.step, 0)?,
    })
}

/// The text, to find lines in.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        self.0.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1
    }

    fn wrong<T>(&self, span: &Range<usize>, why: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.line(span), why: why.into() })
    }

    fn steps(&self, raw: Vec<Spanned<RawStep>>, depth: u32) -> Result<Vec<Step>, ParseError> {
        raw.into_iter().map(|s| self.step(s, depth)).collect()
    }

    fn step(&self, raw: Spanned<RawStep>, depth: u32) -> Result<Step, ParseError> {
        let span = raw.span();
        let mut s = raw.into_inner();
        if depth > MAX_DEPTH {
            return self.wrong(&span, format!("one-of in one-of, more than {MAX_DEPTH} deep"));
        }
        let (choices, lanes) = (s.one_of.take(), s.lanes.take());
        let ways = [s.op.is_some(), choices.is_some(), lanes.is_some()];
        if ways.iter().filter(|w| **w).count() != 1 {
            return self.wrong(&span, "a step has one of op, one-of and lanes");
        }
        if s.op.is_none() {
            if let Some(key) = s.given().first() {
                return self.wrong(&span, format!("{key} belongs beside an op"));
            }
        }
        if let Some(choices) = choices {
            return self.choices(choices, &span, depth);
        }
        if let Some(lanes) = lanes {
            return self.lanes(lanes, &span);
        }
        Ok(Step::Do(self.act(s, &span)?))
    }

    fn choices(
        &self,
        raw: Vec<Spanned<RawChoice>>,
        span: &Range<usize>,
        depth: u32,
    ) -> Result<Step, ParseError> {
        let mut choices = Vec::new();
        for c in raw {
            let span = c.span();
            let c = c.into_inner();
            let weight = c.weight.unwrap_or(1);
            if weight == 0 || weight > 1_000_000 {
                return self.wrong(&span, "weight is 1 to 1000000");
            }
            choices.push(Choice { weight, steps: self.steps(c.steps, depth + 1)? });
        }
        if choices.is_empty() {
            return self.wrong(span, "one-of is empty");
        }
        Ok(Step::OneOf(choices))
    }

    fn lanes(&self, raw: Vec<Spanned<RawLane>>, span: &Range<usize>) -> Result<Step, ParseError> {
        let mut lanes: Vec<Lane> = Vec::new();
        for l in raw {
            let span = l.span();
            let l = l.into_inner();
            if lanes.iter().any(|other| other.name == l.name) {
                return self.wrong(&span, format!("there are two lanes {}", l.name));
            }
            let mut acts = Vec::new();
            for s in l.steps {
                acts.push(self.lane_act(s)?);
            }
            if acts.is_empty() {
                return self.wrong(&span, format!("lane {} has no steps", l.name));
            }
            lanes.push(Lane { name: l.name, times: l.times.unwrap_or(1), cpu: l.cpu, acts });
        }
        if lanes.is_empty() || lanes.len() > MAX_LANES {
            return self.wrong(span, format!("lanes are 1 to {MAX_LANES}"));
        }
        if !lanes.iter().any(|l| l.times > 0) {
            return self.wrong(span, "every lane has times = 0: none ever ends");
        }
        Ok(Step::Lanes(lanes))
    }

    fn lane_act(&self, raw: Spanned<RawStep>) -> Result<Act, ParseError> {
        let span = raw.span();
        let s = raw.into_inner();
        if s.op.is_none() {
            return self.wrong(&span, "a step of a lane is an op");
        }
        let act = self.act(s, &span)?;
        if act.what.op(&crate::Plan::default().target).is_none() {
            return self.wrong(
                &span,
                format!(
                    "{} is nothing that the guest does by itself: it cannot be in a lane",
                    act.what.name()
                ),
            );
        }
        Ok(act)
    }

    fn act(&self, s: RawStep, span: &Range<usize>) -> Result<Act, ParseError> {
        let name = s.op.clone().unwrap_or_default();
        let Some((_, keys)) = OPS.iter().find(|o| o.0 == name) else {
            let known: Vec<_> = OPS.iter().map(|o| o.0).collect();
            return self.wrong(span, format!("there is no op {name:?}; there are {}", known.join(", ")));
        };
        if let Some(key) = s.given().into_iter().find(|k| !keys.contains(k) && !ALWAYS.contains(k)) {
            return self.wrong(span, format!("{name} takes no {key}"));
        }
        let fail_nth = self.fail_nth(s.fail_nth.as_ref(), span)?;
        let may_fail = s.may_fail.unwrap_or(fail_nth.is_some());
        let what = self.what(&name, s, span)?;
        if fail_nth.is_some() && what.op(&crate::Plan::default().target).is_none() {
            return self
                .wrong(span, format!("{name} is nothing that an allocation of the guest can fail in"));
        }
        Ok(Act { what, may_fail, fail_nth })
    }

    fn fail_nth(
        &self,
        value: Option<&toml::Value>,
        span: &Range<usize>,
    ) -> Result<Option<(u32, u32)>, ParseError> {
        let number = |v: &toml::Value| v.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let range = match value {
            None => return Ok(None),
            Some(toml::Value::Array(a)) => match a.as_slice() {
                [first, last] => number(first).zip(number(last)),
                _ => None,
            },
            Some(v) => number(v).map(|n| (n, n)),
        };
        match range.filter(|(first, last)| first <= last) {
            Some(r) => Ok(Some(r)),
            None => self.wrong(span, "fail-nth is a number from 1, or [FIRST, LAST]"),
        }
    }

    fn what(&self, name: &str, s: RawStep, span: &Range<usize>) -> Result<What, ParseError> {
        let need = |key: &str| ParseError { line: self.line(span), why: format!("{name} needs {key}") };
        let device = || s.device.clone().unwrap_or_else(|| ENDPOINT.into());
        Ok(match name {
            "up" => What::Up,
            "down" => What::Down,
            "insmod" => What::Insmod,
            "rmmod" => What::Rmmod,
            "bind" => What::Bind,
            "unbind" => What::Unbind,
            "use" => What::Use,
            "raise" => {
                let vectors = s.vectors.unwrap_or(1);
                if !(1..=32).contains(&vectors) {
                    return self.wrong(span, "vectors is 1 to 32");
                }
                What::Raise { kind: s.kind.ok_or_else(|| need("kind"))?, vectors }
            }
            "fire" => {
                let vector = s.vector.unwrap_or(1);
                if !(1..=32).contains(&vector) {
                    return self.wrong(span, "vector is 1 to 32");
                }
                What::Fire { kind: s.kind.ok_or_else(|| need("kind"))?, vector }
            }
            "read" => What::Read { path: self.path(s.path.ok_or_else(|| need("path"))?, span)? },
            "write" => What::Write {
                path: self.path(s.path.ok_or_else(|| need("path"))?, span)?,
                text: s.text.ok_or_else(|| need("text"))?,
            },
            "lspci" => What::Lspci,
            "rescan" => What::Rescan,
            "remove" => What::Remove { device: s.device.ok_or_else(|| need("device"))? },
            "reset" => What::Reset { device: device() },
            "bind-endpoint" => What::BindEndpoint { device: device() },
            "unbind-endpoint" => What::UnbindEndpoint { device: device() },
            "retrain" => What::Retrain,
            "link-disable" => What::LinkDisable,
            "link-loss" => What::LinkLoss,
            "pull" => What::Pull,
            "insert" => What::Insert,
            "suspend" => What::Suspend { seconds: s.seconds.unwrap_or(2) },
            "cpu" => What::Cpu {
                cpu: s.cpu.ok_or_else(|| need("cpu"))?,
                online: s.online.ok_or_else(|| need("online"))?,
            },
            "affinity" => What::Affinity { cpus: s.cpus.ok_or_else(|| need("cpus"))? },
            "pause" => What::Pause { ms: s.ms.ok_or_else(|| need("ms"))? },
            "stall" => What::Stall(self.stall(s, span)?),
            _ => What::Check,
        })
    }

    fn path(&self, path: String, span: &Range<usize>) -> Result<String, ParseError> {
        let good = ["/proc/", "/sys/", "/dev/", "/tmp/", "/mnt/"].iter().any(|d| path.starts_with(d));
        if !good || path.split('/').any(|part| part == "..") {
            return self.wrong(span, format!("path {path:?} is not below /proc, /sys, /dev, /tmp or /mnt"));
        }
        Ok(path)
    }

    fn access(
        &self,
        (read, write): (Option<String>, Option<String>),
        nth: Option<u32>,
        span: &Range<usize>,
    ) -> Result<Access, ParseError> {
        let (register, write) = match (read, write) {
            (Some(r), None) => (r, false),
            (None, Some(r)) => (r, true),
            _ => return self.wrong(span, "an access is read = REGISTER or write = REGISTER"),
        };
        if rc_model::register_named(&register).is_none() {
            return self.wrong(span, format!("there is no register {register:?}: see rcvm registers"));
        }
        match nth.unwrap_or(1) {
            0 => self.wrong(span, "nth counts from 1"),
            nth => Ok(Access { register, write, nth }),
        }
    }

    fn stall(&self, s: RawStep, span: &Range<usize>) -> Result<StallRule, ParseError> {
        let Some(u) = s.until else { return self.wrong(span, "stall needs until") };
        let of_access = u.read.is_some() || u.write.is_some();
        let until = match (of_access, u.delay_ms) {
            (true, None) if u.reached == Some(true) => {
                Until::Reached(self.access((u.read, u.write), u.nth, span)?)
            }
            (true, None) => Until::Access(self.access((u.read, u.write), u.nth, span)?),
            (false, Some([first, last])) if first <= last && last <= MAX_STALL_MS => {
                Until::DelayMs(first, last)
            }
            (false, Some(_)) => {
                return self.wrong(span, format!("delay-ms is [FIRST, LAST] up to {MAX_STALL_MS}"))
            }
            _ => return self.wrong(span, "until has one of read, write and delay-ms"),
        };
        let timeout_ms = s.timeout_ms.unwrap_or(STALL_MS);
        if timeout_ms > MAX_STALL_MS {
            return self.wrong(
                span,
                format!(
                    "timeout-ms is at most {MAX_STALL_MS}: a CPU that is held longer is taken for locked up"
                ),
            );
        }
        Ok(StallRule {
            access: self.access((s.read, s.write), s.nth, span)?,
            vcpu: s.vcpu,
            until,
            timeout_ms,
        })
    }
}

/// Keys that any operation takes.
const ALWAYS: [&str; 2] = ["may-fail", "fail-nth"];

/// Operations and the keys that each takes.
const OPS: [(&str, &[&str]); 28] = [
    ("up", &[]),
    ("down", &[]),
    ("insmod", &[]),
    ("rmmod", &[]),
    ("bind", &[]),
    ("unbind", &[]),
    ("use", &[]),
    ("raise", &["kind", "vectors"]),
    ("fire", &["kind", "vector"]),
    ("read", &["path"]),
    ("write", &["path", "text"]),
    ("lspci", &[]),
    ("rescan", &[]),
    ("remove", &["device"]),
    ("reset", &["device"]),
    ("bind-endpoint", &["device"]),
    ("unbind-endpoint", &["device"]),
    ("retrain", &[]),
    ("link-disable", &[]),
    ("link-loss", &[]),
    ("pull", &[]),
    ("insert", &[]),
    ("suspend", &["seconds"]),
    ("cpu", &["cpu", "online"]),
    ("affinity", &["cpus"]),
    ("pause", &["ms"]),
    ("stall", &["read", "write", "nth", "vcpu", "until", "timeout-ms"]),
    ("check", &[]),
];

impl RawStep {
    /// Keys that are there, `op`, `one-of` and `lanes` apart.
    fn given(&self) -> Vec<&'static str> {
        let all = [
            ("may-fail", self.may_fail.is_some()),
            ("fail-nth", self.fail_nth.is_some()),
            ("kind", self.kind.is_some()),
            ("vectors", self.vectors.is_some()),
            ("vector", self.vector.is_some()),
            ("path", self.path.is_some()),
            ("text", self.text.is_some()),
            ("device", self.device.is_some()),
            ("seconds", self.seconds.is_some()),
            ("cpu", self.cpu.is_some()),
            ("online", self.online.is_some()),
            ("cpus", self.cpus.is_some()),
            ("ms", self.ms.is_some()),
            ("read", self.read.is_some()),
            ("write", self.write.is_some()),
            ("nth", self.nth.is_some()),
            ("vcpu", self.vcpu.is_some()),
            ("until", self.until.is_some()),
            ("timeout-ms", self.timeout_ms.is_some()),
        ];
        all.into_iter().filter(|k| k.1).map(|k| k.0).collect()
    }
}
