module leader-election/bench/canned

go 1.26.0
