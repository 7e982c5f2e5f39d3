//! From one stream to another.

use std::io;

use super::{Read, Write};

/// Reads everything from one stream and writes it to the other, up to the end; gives the number
/// of bytes. The other stream stays open: [`Write::shutdown_write`] passes the end on.
///
/// # Cancellation
/// What was read and not yet written, at most 16 KiB, is lost.
///
/// # Errors
/// Those of either stream, and cancellation and timeouts.
///
/// # Examples
/// ```
/// # kernel::run(async {
/// use kernel::{io::copy, sim::pipe};
/// let (client, server) = pipe(64);
/// let echo = kernel::spawn(async move {
///     copy(&server, &server).await
/// });
/// client.write_all(b"hello").await?;
/// client.shutdown_write();
/// assert_eq!(echo.join().await.unwrap()?, 5);
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
pub async fn copy(from: &impl Read, to: &impl Write) -> io::Result<u64> {
    let mut buf = vec![0; 16 * 1024];
    let mut copied = 0;
    loop {
        match from.read(&mut buf).await? {
            0 => return Ok(copied),
            n => {
                to.write_all(&buf[..n]).await?;
                copied += n as u64;
            }
        }
    }
}
