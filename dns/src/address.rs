//! The server's own address on the loopback interface: pods reach it by the node, and it needs no NIC.

use std::net::IpAddr;

use futures::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

/// The loopback interface has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// Adds an address of its own to the loopback interface; says whether it was not there before.
pub(crate) async fn add(address: IpAddr) -> Result<bool, rtnetlink::Error> {
    let added = with(|handle| async move {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = handle.address().add(LOOPBACK, address, prefix);
        // Without duplicate address detection an IPv6 address can be bound at once: its end is a piece of
        // work of the kernel's, which on a busy host comes after the bind.
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        request.execute().await
    });
    match added.await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => Ok(false),
        done => done.map(|()| true),
    }
}

/// Takes it away again.
pub(crate) async fn remove(address: IpAddr) -> Result<(), rtnetlink::Error> {
    with(|handle| async move {
        let found: Vec<AddressMessage> = handle
            .address()
            .get()
            .set_link_index_filter(LOOPBACK)
            .set_address_filter(address)
            .execute()
            .try_collect()
            .await?;
        for message in found {
            handle.address().del(message).execute().await?;
        }
        Ok(())
    })
    .await
}

/// Runs one piece of work with a netlink socket, and ends the socket's task with it.
async fn with<T, F>(work: impl FnOnce(Handle) -> F) -> Result<T, rtnetlink::Error>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))?;
    let task = tokio::spawn(connection);
    let done = work(handle).await;
    task.abort();
    done
}
