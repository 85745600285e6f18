# A private Azurite on loopback with one container: azurite.sh FOLDER PORT.
# It ends with this script, which ends with whoever holds its input.
set -euo pipefail
folder=$1 port=$2
trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"; exit' EXIT TERM INT
mkdir -p "$folder"
"$AZURITE" --blobHost 127.0.0.1 --blobPort "$port" --location "$folder" --silent --skipApiVersionCheck \
    --disableTelemetry > "$folder/azurite.log" 2>&1 < /dev/null &
python3 - "$port" <<'PYTHON'
import base64, hashlib, hmac, os, sys, time, urllib.error, urllib.request
from email.utils import formatdate

account, container = os.environ["ACCOUNT"], os.environ["CONTAINER"]
path = f"/{account}/{container}"
for _ in range(300):
    date, version = formatdate(usegmt=True), "2021-08-06"
    signed = "\n".join(["PUT"] + [""] * 11 + [f"x-ms-date:{date}", f"x-ms-version:{version}", f"/{account}{path}", "restype:container"])
    digest = hmac.new(base64.b64decode(os.environ["KEY"]), signed.encode(), hashlib.sha256).digest()
    headers = {"x-ms-date": date, "x-ms-version": version,
               "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}"}
    url = f"http://127.0.0.1:{sys.argv[1]}{path}?restype=container"
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=10)
        break
    except urllib.error.HTTPError as error:
        sys.exit(f"the container is not made: {error} {error.read().decode()}")
    except OSError:
        time.sleep(0.1)
else:
    sys.exit("Azurite does not answer")
PYTHON
echo ready
cat > /dev/null
