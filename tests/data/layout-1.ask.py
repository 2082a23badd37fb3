import sys, json
told = 0
for line in sys.stdin:
    said = json.loads(line)
    if said["type"] == "tell":
        told += 1
    if said["type"] == "ask":
        print(json.dumps({"params": {"z": 0.5 * (told + 1)}} if told < 3 else {"done": True}), flush=True)
