//! Suspend-to-idle.

use guest_agent::OpError;
use guest_agent::Value;

use super::failed;
use super::Root;

const ALARM: &str = "sys/class/rtc/rtc0/wakealarm";

/// Suspend to idle and be woken by the clock after `seconds`. An error is the kernel's: a driver refused, or the alarm came
/// before the last device slept.
pub fn suspend(root: &Root, seconds: u32) -> Result<Value, OpError> {
    // 0 takes back an alarm that is left from before; without one it is no error.
    for alarm in ["0".to_owned(), format!("+{seconds}")] {
        write(root, ALARM, &alarm)?;
    }
    write(root, "sys/power/state", "freeze")?;
    Ok(Value::Done)
}

fn write(root: &Root, file: &str, text: &str) -> Result<(), OpError> {
    std::fs::write(root.path(file), text).map_err(|e| failed(format!("write {text} to /{file}"), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_is_set_before_the_system_sleeps() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        let e = suspend(&root, 2).unwrap_err();
        assert!(e.what.contains("wakealarm"), "no clock: nothing would wake it: {e:?}");
        std::fs::create_dir_all(root.path("sys/class/rtc/rtc0")).unwrap();
        std::fs::create_dir_all(root.path("sys/power")).unwrap();
        assert_eq!(suspend(&root, 2), Ok(Value::Done));
        assert_eq!(root.text(ALARM), "+2");
        assert_eq!(root.text("sys/power/state"), "freeze");
    }
}
