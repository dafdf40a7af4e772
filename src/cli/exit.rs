//! How a process ends, in one table. Numbers from 64 on are those of `sysexits.h`.
//!
//! | code | name          | meaning                                                            | restart helps |
//! |-----:|---------------|--------------------------------------------------------------------|---------------|
//! |    0 | `Ok`          | done; for `run`: drained, nothing of unknown outcome               | –             |
//! |    1 | `Failed`      | the command could not do what it was asked                         | perhaps       |
//! |    2 | `Usage`       | the command line is wrong                                          | no            |
//! |   69 | `Unavailable` | the database or the broker cannot be reached, and was required     | later         |
//! |   70 | `Bug`         | the relay broke one of its own rules; please report it             | perhaps       |
//! |   75 | `Temporary`   | `run` stopped before everything in flight was known; will repeat   | yes           |
//! |   77 | `Permission`  | the database or the broker refuses what the command needs          | no            |
//! |   78 | `Config`      | the configuration cannot be used                                   | no            |
//! |  130 | `Interrupted` | `demo` was stopped by Ctrl-C and has cleaned up                    | –             |
//! |  143 | `Terminated`  | the same, by SIGTERM or SIGHUP                                     | –             |

use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Unavailable = 69,
    Bug = 70,
    Temporary = 75,
    Permission = 77,
    Config = 78,
    Interrupted = 130,
    Terminated = 143,
}

impl Exit {
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
