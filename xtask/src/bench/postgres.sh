# A private PostgreSQL on loopback, as it comes but for its limit of connections: postgres.sh FOLDER PORT.
# It ends with this script, which ends with whoever reads its output.
set -euo pipefail
folder=$1 port=$2
trap 'trap - EXIT; kill -INT $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"; exit' EXIT TERM INT
mkdir -p "$folder"
cd "$folder"
as=()
if [ "$(id -u)" = 0 ]; then
    # It refuses to run as root.
    chown postgres "$folder"
    as=(setpriv --reuid postgres --regid postgres --clear-groups)
fi
bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin | sort --version-sort | tail --lines 1)
"${as[@]}" "$bin/initdb" -D "$folder/data" -U bits -A trust -E UTF8 --locale=C > initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
"${as[@]}" "$bin/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1 -c "unix_socket_directories=$folder" \
    -c max_connections=300 > log 2>&1 &
for _ in $(seq 300); do
    if psql --no-psqlrc --quiet --host 127.0.0.1 --port "$port" --username bits --dbname postgres --command "SELECT" > /dev/null 2>&1; then
        echo ready
        # The end of the input is the end of the reader.
        cat > /dev/null
        exit
    fi
    sleep 0.1
done
cat log >&2
exit 1
