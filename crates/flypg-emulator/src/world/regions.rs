//! The regions of Fly and the expressions that choose among them.

use super::refusal::Refusal;

/// One row of `GET /v1/platform/regions`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    pub code: &'static str,
    pub name: &'static str,
    pub latitude: f64,
    pub longitude: f64,
    /// `africa`, `asia_pacific`, `europe`, `north_america`, `south_america`.
    pub geo: &'static str,
    /// Whether it has a WireGuard gateway.
    pub gateway: bool,
}

const fn region(
    code: &'static str,
    name: &'static str,
    latitude: f64,
    longitude: f64,
    geo: &'static str,
    gateway: bool,
) -> Region {
    Region { code, name, latitude, longitude, geo, gateway }
}

/// The regions Fly documents, by code. Coordinates are those of the city.
pub const REGIONS: [Region; 18] = [
    region("ams", "Amsterdam, Netherlands", 52.37, 4.9, "europe", true),
    region("arn", "Stockholm, Sweden", 59.65, 17.92, "europe", true),
    region("bom", "Mumbai, India", 19.08, 72.88, "asia_pacific", true),
    region("cdg", "Paris, France", 48.86, 2.35, "europe", true),
    region("dfw", "Dallas, Texas (US)", 32.78, -96.81, "north_america", true),
    region("ewr", "Secaucus, NJ (US)", 40.79, -74.06, "north_america", true),
    region("fra", "Frankfurt, Germany", 50.11, 8.68, "europe", true),
    region("gru", "Sao Paulo, Brazil", -23.55, -46.63, "south_america", false),
    region("iad", "Ashburn, Virginia (US)", 39.04, -77.49, "north_america", true),
    region("jnb", "Johannesburg, South Africa", -26.2, 28.05, "africa", false),
    region("lax", "Los Angeles, California (US)", 33.94, -118.41, "north_america", true),
    region("lhr", "London, United Kingdom", 51.51, -0.13, "europe", true),
    region("nrt", "Tokyo, Japan", 35.62, 139.78, "asia_pacific", true),
    region("ord", "Chicago, Illinois (US)", 41.88, -87.63, "north_america", true),
    region("sin", "Singapore, Singapore", 1.35, 103.82, "asia_pacific", true),
    region("sjc", "San Jose, California (US)", 37.34, -121.89, "north_america", true),
    region("syd", "Sydney, Australia", -33.87, 151.21, "asia_pacific", true),
    region("yyz", "Toronto, Canada", 43.65, -79.38, "north_america", true),
];

/// The region with this code.
#[must_use]
pub fn find(code: &str) -> Option<&'static Region> {
    REGIONS.iter().find(|region| region.code == code)
}

/// Resolves a placement expression (`"ord"`, `"iad,dfw"`, `"cdg,eu"`, `"any"`) to regions in order of preference.
///
/// # Errors
/// 400 when an entry is neither a region nor an alias.
pub fn resolve(expression: &str, nearest: &str) -> Result<Vec<&'static str>, Refusal> {
    let mut found: Vec<&'static str> = Vec::new();
    let mut add = |code: &'static str| {
        if !found.contains(&code) {
            found.push(code);
        }
    };
    let wanted = expression.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut any_given = false;
    for part in wanted {
        any_given = true;
        let within: Box<dyn Fn(&Region) -> bool> = match part {
            "any" => Box::new(|_| true),
            "apac" => Box::new(|region| region.geo == "asia_pacific"),
            "eu" => Box::new(|region| region.geo == "europe"),
            "na" => Box::new(|region| region.geo == "north_america"),
            "sa" => Box::new(|region| region.geo == "south_america"),
            "us" | "usa" => Box::new(|region| region.name.ends_with("(US)")),
            code => {
                let region = find(code).ok_or_else(|| Refusal::unknown_region(code))?;
                add(region.code);
                continue;
            }
        };
        if let Some(near) = find(nearest).filter(|near| within(near)) {
            add(near.code);
        }
        REGIONS.iter().filter(|region| within(region)).for_each(|region| add(region.code));
    }
    if !any_given {
        add(find(nearest).map_or("iad", |region| region.code));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        assert_eq!(resolve("ord", "iad").unwrap(), ["ord"]);
        assert_eq!(resolve("iad,dfw", "ord").unwrap(), ["iad", "dfw"]);
        assert_eq!(resolve("", "ord").unwrap(), ["ord"]);
        assert_eq!(resolve("cdg,eu", "iad").unwrap(), ["cdg", "ams", "arn", "fra", "lhr"]);
        assert_eq!(resolve("any", "syd").unwrap()[0], "syd");
        assert_eq!(resolve("any", "syd").unwrap().len(), 18);
        assert_eq!(resolve("usa", "lhr").unwrap(), ["dfw", "ewr", "iad", "lax", "ord", "sjc"]);
        assert!(resolve("mars", "iad").unwrap_err().error.contains("target region mars not found"));
    }
}
