# What the scripts beside this file share. They set CACHE before they read it.

# retry COMMAND...: registries fail now and then.
retry() { "$@" || { sleep 5; "$@"; } || { sleep 20; "$@"; }; }

# free_port: a port of 127.0.0.1 that is free, and that no server here gets for a long time: one that is stopped, or about
# to start, keeps its own. It is none of those that the system gives to connections.
free_port() {
  mkdir -p "$CACHE/run"
  python3 - "$CACHE/run/port" <<'PYTHON'
import fcntl, itertools, socket, sys

FIRST, COUNT = 20000, 10000
with open(sys.argv[1], "a+") as last:
    fcntl.flock(last, fcntl.LOCK_EX)
    last.seek(0)
    start = int(last.read() or 0)
    for number in itertools.islice(itertools.count(start + 1), COUNT):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", FIRST + number % COUNT))
            except OSError:
                continue
        last.truncate(0)
        last.write(str(number % COUNT))
        print(FIRST + number % COUNT)
        break
    else:
        sys.exit("no free port")
PYTHON
}

# make_certificates DIR USER: a certificate authority, and a server certificate by it for localhost and 127.0.0.1. For a
# user `client`, two client certificates by it, client.crt (RSA) and client-ec.crt, and stranger.crt by nobody.
make_certificates() {
  local dir=$1 user=$2 name
  (
    cd "$dir"
    umask 077
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt \
      -subj "/CN=Tributary test authority"
    openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj "/CN=localhost"
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
      -out server.crt -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1")
    openssl genrsa -out client.key 2048
    openssl ecparam -name prime256v1 -genkey -noout -out client-ec.key
    for name in client client-ec; do
      openssl req -new -key $name.key -out $name.csr -subj "/CN=client"
      openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out $name.crt
    done
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout stranger.key -out stranger.crt -subj "/CN=client"
    chown "$user" server.key
    chmod 644 ./*.crt
  ) >/dev/null 2>&1
}

# apt_install PACKAGE...: packages of this Debian.
apt_install() {
  retry apt-get -qq update >&2
  DEBIAN_FRONTEND=noninteractive retry apt-get -qq -y install --no-install-recommends "$@" >&2
}

# unpack_debian SUITE DIR PACKAGE...: the packages of another Debian with all they need, its libc included, without
# touching this one. What is in DIR runs by run_unpacked.
unpack_debian() {
  local suite=$1 dir=$2 root archive
  shift 2
  root=$(mktemp -d -p "$CACHE/servers")
  mkdir -p "$root"/etc/apt/{apt.conf.d,preferences.d} "$root"/var/lib/apt/lists/partial "$root/var/lib/dpkg" \
    "$root"/var/cache/apt/archives/partial "$root/out"
  : >"$root/var/lib/dpkg/status"
  archive=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${archive:-http://deb.debian.org/debian} $suite main" \
    >"$root/etc/apt/sources.list"
  # A suite that stands still has a Release file past its date; its signature is checked all the same.
  cat >"$root/apt.conf" <<CONF
Dir "$root";
Dir::State::status "$root/var/lib/dpkg/status";
APT::Architecture "amd64"; APT::Architectures {"amd64";};
APT::Install-Recommends "false"; APT::Sandbox::User "root";
Acquire::Languages "none"; Acquire::Check-Valid-Until "false";
CONF
  export APT_CONFIG=$root/apt.conf
  retry apt-get -qq update >&2
  retry apt-get -qq -y --download-only install "$@" >&2
  unset APT_CONFIG
  for archive in "$root"/var/cache/apt/archives/*.deb; do dpkg -x "$archive" "$root/out"; done
  rm -rf "$root"/out/usr/share/{doc,man,perl,locale,info} "$root"/out/usr/lib/x86_64-linux-gnu/perl*
  chmod -R a+rX "$root/out"
  rm -rf "$dir"
  mv "$root/out" "$dir"
  rm -rf "$root"
}

# run_unpacked DIR: the words in front of a program of DIR.
run_unpacked() { echo "$1/usr/lib64/ld-linux-x86-64.so.2" --library-path "$1/usr/lib/x86_64-linux-gnu"; }

# serve KIND VERSION: starts a server by `start` in a scratch directory and waits for the end of standard input; then
# stops and removes it.
serve() {
  local kind=$1 version=$2 dir
  mkdir -p "$CACHE/run"
  dir=$(mktemp -d -p "$CACHE/run" "$kind.XXXXXX")
  chmod 755 "$dir"
  # shellcheck disable=SC2064
  trap "stop '$dir' immediate || true; rm -rf '$dir'" EXIT
  trap '' INT TERM PIPE # the end of standard input is the only signal: a Ctrl-C reaches the whole group
  start "$version" "$dir"
  cat >/dev/null
}
