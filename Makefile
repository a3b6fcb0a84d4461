# A list of names. What each does is in scripts/ or in cargo.

demo:      ; @scripts/demo                       # a cluster on this computer, in a minute
demo-stop: ; @scripts/demo-stop                  # and nothing of it left
test:      ; @scripts/test                       # everything CI runs
check:     ; cargo clippy --workspace --all-targets --locked -- -D warnings && cargo fmt --all --check
sim:       ; @scripts/sim                        # whole clusters from one seed each; SEED=… tells one
sim-long:  ; @SEEDS=1000000 scripts/sim          # a night
sim-mutants: ; @scripts/sim mutants              # every rule taken away, and missed
golden:    ; cargo test --locked -p flypg-tests --test golden
e2e:       ; @scripts/test e2e
faults:    ; @scripts/faults                     # killed, frozen, cut off: as root for the latter
bench:     ; @scripts/bench
bench-failover: ; @scripts/bench-failover            # how long writes stop, fault by fault
fmt:       ; cargo fmt --all

.PHONY: demo demo-stop test check sim sim-long sim-mutants golden e2e faults bench bench-failover fmt
