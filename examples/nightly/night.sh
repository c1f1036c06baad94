#!/bin/sh
# One night: export the data, upload it, retrain on it, wait, and print what came of it.
# `./night.sh 2026-11-27` does that night again, which comes to the same jobs and never to second ones.
set -eu
night=${1:-$(date +%F)}
"$BIN/python" tonight.py "$night"
"$BIN/loopline" datasets upload speakers.npz
exec "$BIN/loopline" submit jobs/*.yaml --batch --name nightly --wait --idempotency-key "nightly-$night"
