use super::files;
use crate::cli::{TextOrJson, Validate};
use crate::error::{CliError, Exit};
use crate::terminal::Terminal;

pub(crate) fn run(args: &Validate, terminal: &Terminal) -> Result<Exit, CliError> {
    let wishes = files::read(&args.files)?;
    let bad = match args.output {
        TextOrJson::Text => files::complain(&wishes.diagnostics, terminal),
        TextOrJson::Json => {
            let found: Vec<_> = wishes.diagnostics.iter().collect();
            let text = serde_json::to_string_pretty(&found).expect("diagnostics have string keys only");
            terminal.print(&format!("{text}\n"))?;
            wishes.diagnostics.errors() > 0
        }
    };
    if bad {
        return Ok(Exit::Input);
    }
    if args.output == TextOrJson::Text {
        for cluster in &wishes.clusters {
            let nodes = cluster.spec.total_nodes();
            let s = if nodes == 1 { "" } else { "s" };
            terminal.print(&format!("{} is good: {nodes} node{s}\n", cluster.spec.name))?;
        }
    }
    Ok(Exit::Done)
}
