# What a container that means harm tries, with the rights that every container has. Prints what it got through to.
import concurrent.futures, json, os, random, socket, struct, sys

victim, victim6, machine, port = json.loads(sys.argv[1])
gateway = next(l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver"))
own = socket.gethostbyname(socket.gethostname())


def tcp(host, port, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(3)
    try:
        at = (host, port) if family == socket.AF_INET else (host, port, 0, socket.if_nametoindex("eth0"))
        s.connect(at)
        # Something that the engine accepts and then drops is no way through.
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return bool(s.recv(1))
    except OSError:
        return False
    finally:
        s.close()


def open_port(p):
    s = socket.socket()
    s.settimeout(3)
    try:
        return p if s.connect_ex((gateway, p)) == 0 else None
    finally:
        s.close()


# 1. Other sessions, the machine by all its names, metadata services.
for host in [victim, *machine, "127.0.0.1", gateway, "0.0.0.0", "169.254.169.254", "127.1.2.3", "224.0.0.1"]:
    for p in (80, port):
        if tcp(host, p):
            print("reached", host, p)
if tcp(victim6, 80, socket.AF_INET6):
    print("reached", victim6)

# 2. All ports of the gateway: only names are served there.
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    for p in pool.map(open_port, range(1, 65536), chunksize=256):
        if p and p != 53:
            print("open at the gateway", p)

# 3. Packets of its own making: foreign sources, and destinations that no socket would send to.
def checksum(b):
    b += b"\0" * (len(b) % 2)
    n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while n >> 16:
        n = (n & 0xFFFF) + (n >> 16)
    return ~n & 0xFFFF


def udp(source, destination, port, text):
    data = struct.pack("!HHHH", 4000, port, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(destination))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data


wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0x0800))
mac = open("/sys/class/net/eth0/address").read().strip()
ours = bytes.fromhex(mac.replace(":", ""))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (gateway, 9))
neighbours = [l.split()[3] for l in open("/proc/net/arp").read().splitlines()[1:]]
for there in [bytes.fromhex(n.replace(":", "")) for n in neighbours] + [b"\xff" * 6]:
    for source in (own, victim, gateway, "127.0.0.1"):
        for destination, p in [(victim, 81), ("127.0.0.1", port), *[(m, port) for m in machine], ("255.255.255.255", 81), ("224.0.0.1", 81)]:
            wire.send(there + ours + b"\x08\x00" + udp(source, destination, p, b"forged"))
    # 4. And rubbish, whole and cut off.
    for _ in range(3000):
        whole = udp(own, random.choice([victim, gateway, "127.0.0.1", "203.0.113.1"]), 53, random.randbytes(60))
        packet = bytearray(whole[: random.randrange(len(whole) + 1)])
        if packet and random.random() < 0.5:
            packet[random.randrange(len(packet))] ^= 1 << random.randrange(8)
        try:
            wire.send(there + ours + b"\x08\x00" + bytes(packet))
        except OSError:
            pass

# 5. IPv6 to all that hear it on this link.
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for host in ("ff02::1", "ff02::2", victim6):
    for p in (81, port, 53):
        try:
            six.sendto(b"forged", (host, p, 0, socket.if_nametoindex("eth0")))
        except OSError:
            pass

# 6. A flood for the name server, by datagrams and by connections that say half of a question.
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(20000):
    question = struct.pack("!HHHHHH", n & 0xFFFF, 0x100, 1, 0, 0, 0) + bytes([20]) + b"%020d" % n + b"\x07invalid\0\0\x01\0\x01"
    try:
        names.sendto(question if n % 2 else question[: n % len(question)], (gateway, 53))
    except OSError:
        pass
half = []
for _ in range(400):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((gateway, 53))
    half.append(s)
for s in half:
    try:
        s.send(b"\x00\x40\x12")
    except OSError:
        pass

# 7. Sockets of the engine's that are not on the network.
abstract = [l.split()[-1] for l in open("/proc/net/unix") if "@" in l]
if abstract:
    print("sockets", abstract)
for root, dirs, files in os.walk("/"):
    if root.startswith(("/proc", "/sys")):
        dirs.clear()
        continue
    for f in files:
        if not os.path.islink(os.path.join(root, f)) and os.path.exists(os.path.join(root, f)):
            if (os.stat(os.path.join(root, f)).st_mode & 0o170000) == 0o140000:
                print("socket", os.path.join(root, f))
print("tried all")
