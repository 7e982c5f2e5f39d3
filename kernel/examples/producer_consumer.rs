//! Producers and consumers around a bounded mailbox: who is too fast waits for the others.
//!
//! `cargo run -p kernel --example producer_consumer`

use std::{cell::Cell, rc::Rc, time::Duration};

use kernel::{
    Error, GroupError, TaskGroup, sleep,
    sync::{BoundedSender, Receiver, mailbox_bounded},
};

/// An order for so many cakes, and who it is from.
type Order = (&'static str, u32);

/// Room for this many orders; a customer who finds none waits.
const BOARD: usize = 3;

/// Gives its orders, as fast as there is room. Its sender goes with it; when the last customer
/// has gone, the bakers see the end of the mailbox.
async fn customer(
    name: &'static str,
    orders: u32,
    board: BoundedSender<Order>,
) -> Result<u32, Error> {
    for cakes in 1..=orders {
        board.send((name, cakes)).await?;
        println!("{name} has ordered {cakes}");
    }
    Ok(0)
}

/// Bakes until there are no more customers; gives how many cakes that were.
async fn baker(name: &'static str, pace: Duration, board: Receiver<Order>) -> Result<u32, Error> {
    let mut baked = 0;
    while let Some((customer, cakes)) = board.recv().await? {
        sleep(pace * cakes).await?;
        println!("{name} has baked {cakes} for {customer}");
        baked += cakes;
    }
    Ok(baked)
}

/// A day: two customers, two bakers. Gives how many cakes were baked, and the most orders that
/// were ever on the board.
pub async fn day(pace: Duration) -> Result<(u32, usize), GroupError<Error>> {
    let (to_board, board) = mailbox_bounded(BOARD);
    let most = Rc::new(Cell::new(0));
    // Beside the group, looking on; cancelled by its handle when the group is done.
    let (seen, watched) = (most.clone(), board.clone());
    let watcher = kernel::spawn(async move {
        while kernel::yield_now().await.is_ok() {
            seen.set(seen.get().max(watched.len()));
            let _ = sleep(pace / 4).await;
        }
    });
    let mut group = TaskGroup::new();
    group.spawn(customer("Ada", 6, to_board.clone()));
    group.spawn(customer("Grace", 4, to_board)); // moved: no sender is left here
    group.spawn(baker("Konrad", pace, board.clone()));
    group.spawn(baker("Edsger", pace * 2, board));
    let cakes = group.join().await?; // the first error would have ended the day for all
    watcher.cancel().await?;
    Ok((cakes.iter().sum(), most.get()))
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (cakes, most) = kernel::run(day(Duration::from_millis(20)))??;
    println!("{cakes} cakes; never more than {most} orders on the board");
    Ok(())
}
