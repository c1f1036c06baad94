#!/bin/sh
# One night: export the data, upload it, retrain on it, wait, and print the result.
# `./night.sh 2026-11-27` repeats that night. It finds the same jobs and does not create new ones.
set -eu
night=${1:-$(date +%F)}
"$BIN/python" tonight.py "$night"
"$BIN/loopline" datasets upload speakers.npz
exec "$BIN/loopline" submit jobs/*.yaml --batch --name nightly --wait --idempotency-key "nightly-$night"
