import collections, time, pytest, json
from support import *
@pytest.mark.parametrize("i", range(6))
@pytest.mark.parametrize("phase", ["content","rcpt","ehlo"])
def test_drop(make_node, make_sink, phase, i):
    sink = make_sink("--drop", f"{phase}=0.3", "--seed", str(i))
    node = make_node(routes=[{"match": "*", "via": f"smtp {sink.address}", "limits": {"messages-per-connection": 1}}])
    with node.client() as client:
        for number in range(40):
            content = b"X-Test-Id: %d\r\nSubject: x\r\n\r\n" % number + b"line\r\n" * 2000
            client.send("a@sender.example", f"b{number}@rcpt.example", content)
    t=time.time(); empties=[]
    while time.time()-t<30:
        s=node.queue("summary")
        n=len({i for i,_ in sink.records()})
        if s["messages"]==0: empties.append((round(time.time()-t,2),n))
        if n==40: break
        node.queue("flush","--all"); time.sleep(.2)
    with open("/tmp/e2e/zz.out","a") as f: print(phase,i,round(time.time()-t,1),n,empties[:3],len(empties),file=f)
