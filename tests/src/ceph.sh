# A private Ceph of one node with its S3 gateway, on loopback and in memory: ceph.sh FOLDER PORT.
# Everything ends with this script, which ends with whoever reads its output.
set -euo pipefail
folder=$1 port=$2
trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"; exit' EXIT TERM INT
mkdir -p "$folder"/{mon,osd,run,rgw}
cd "$folder"
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
v1=$(free) v2=$(free)
fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
# Without cephx the gateway does not start; loopback counts as a network only when it is asked for.
cat > ceph.conf <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$v2,v1:127.0.0.1:$v1]
mon initial members = a
public network = 127.0.0.0/8
ms bind exclude lo iface = false
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $folder/keyring
run dir = $folder/run
pid file = $folder/run/\$name.pid
admin socket = $folder/run/\$name.asok
log file = $folder/\$name.log
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
[mon.a]
mon data = $folder/mon
[osd.0]
osd data = $folder/osd
osd objectstore = memstore
memstore device bytes = 4G
public addr = 127.0.0.1
cluster addr = 127.0.0.1
[client.rgw.a]
rgw data = $folder/rgw
rgw dns name = 127.0.0.1
rgw enable usage log = false
# A day of lifecycle rules, in seconds.
rgw lc debug interval = 2
rgw frontends = beast endpoint=127.0.0.1:$port
CONF
quiet() { "$@" > last.log 2>&1 || { cat last.log >&2; exit 1; }; }
key() { quiet ceph-authtool keyring --gen-key -n "$@"; }
ceph() { command ceph -c ceph.conf "$@"; }
quiet ceph-authtool --create-keyring keyring --gen-key -n mon. --cap mon 'allow *'
key client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
key client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx'
key osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd'
quiet monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$v2,v1:127.0.0.1:$v1]" monmap
quiet ceph-mon -c ceph.conf --mkfs -i a --monmap monmap --keyring keyring
# In the foreground, so that they are children of this script.
ceph-mon -c ceph.conf -i a -f > mon.log 2>&1 &
quiet ceph osd create "$osd" 0
quiet ceph-osd -c ceph.conf -i 0 --mkfs --osd-uuid "$osd"
ceph-osd -c ceph.conf -i 0 -f > osd.log 2>&1 &
quiet timeout 60 radosgw-admin -c ceph.conf -n client.rgw.a user create --uid=bits --display-name=bits --access-key=ACCESSKEY --secret=SECRETKEY
radosgw -c ceph.conf -n client.rgw.a -f > rgw.log 2>&1 &
s3() {
    local none=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
    curl --silent --show-error --fail --aws-sigv4 aws:amz:us-east-1:s3 --user ACCESSKEY:SECRETKEY --header "x-amz-content-sha256: $none" "$@"
}
for _ in $(seq 300); do
    if s3 --request PUT "http://127.0.0.1:$port/bucket" > last.log 2>&1; then
        echo ready
        # The end of the input is the end of the reader.
        cat > /dev/null
        exit
    fi
    sleep 0.2
done
cat last.log rgw.log >&2
exit 1
