//! Many networks as one: whether an address is in any of them.

use std::net::IpAddr;

use ipnet::IpNet;

/// Ranges of addresses, in order and apart.
#[derive(Debug, Default)]
pub(super) struct Networks {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        Networks { v4: apart(v4), v6: apart(v6) }
    }

    /// Whether the address, in its canonical form, is in one of them.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => within(&self.v4, address.to_bits()),
            IpAddr::V6(address) => within(&self.v6, address.to_bits()),
        }
    }
}

/// In order, with those joined that overlap: networks do so only by being in each other.
fn apart<N: Ord + Copy>(mut ranges: Vec<(N, N)>) -> Box<[(N, N)]> {
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    ranges.dedup_by(|later, earlier| later.1 <= earlier.1);
    ranges.into()
}

fn within<N: Ord>(ranges: &[(N, N)], address: N) -> bool {
    let at = ranges.partition_point(|range| range.0 <= address);
    at.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_nested_and_neighbouring_networks() {
        let networks = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "9.255.255.0/24", "11.0.0.0/32", "2001:db8::/32"];
        let networks = Networks::new(networks.map(|text| text.parse().unwrap()));
        assert_eq!((networks.v4.len(), networks.v6.len()), (3, 1));
        for (address, expected) in [
            ("10.255.255.255", true),
            ("10.1.2.3", true),
            ("9.255.255.255", true),
            ("9.255.254.255", false),
            ("11.0.0.0", true),
            ("11.0.0.1", false),
            ("0.0.0.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), expected, "{address}");
        }
    }
}
