//! Services as users have them: real servers in containers, reached by containers and by this machine, started when they are
//! needed and gone when they are not. Each test has an engine of its own.

mod counts;
mod hostile;
mod kit;
mod life;
mod real;
mod shell;
mod tunnels;
