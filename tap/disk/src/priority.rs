//! Threads that work behind all others.

use std::io;

/// How far behind: what is left of a busy processor is about a tenth.
const NICE: i32 = 10;

/// The calling thread gives way to all others from here on.
///
/// # Errors
/// What the operating system says.
pub fn step_back() -> io::Result<()> {
    // Linux takes "this process" for the calling thread.
    rustix::process::setpriority_process(None, NICE).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asks_steps_back() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let stepped = std::thread::spawn(move || step_back().map(|()| nice())).join().unwrap().unwrap();
        assert_eq!((stepped, nice()), (NICE.max(before), before));
    }
}
