//! Fly's regions, as its documentation lists them (2026-11).

/// Code and place, by code.
pub(crate) const REGIONS: [(&str, &str); 18] = [
    ("ams", "Amsterdam"),
    ("arn", "Stockholm"),
    ("bom", "Mumbai"),
    ("cdg", "Paris"),
    ("dfw", "Dallas"),
    ("ewr", "Secaucus"),
    ("fra", "Frankfurt"),
    ("gru", "São Paulo"),
    ("iad", "Ashburn"),
    ("jnb", "Johannesburg"),
    ("lax", "Los Angeles"),
    ("lhr", "London"),
    ("nrt", "Tokyo"),
    ("ord", "Chicago"),
    ("sin", "Singapore"),
    ("sjc", "San Jose"),
    ("syd", "Sydney"),
    ("yyz", "Toronto"),
];
