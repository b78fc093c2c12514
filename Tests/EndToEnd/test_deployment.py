"""What is shipped for containers fits together: names, ports, keys, roles, paths, metrics."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from support import BINARY, Node, Process, run, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "ops/kubernetes"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
ROLES = ["ingress", "delivery", "bounce", "metrics"]


def tool(name):
    """The path of a program, or a skip."""
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if not path:
        pytest.skip(f"{name} is not installed")
    return path


def check_config(file, **environment):
    return run(BINARY, "check-config", "-c", file, check=False, env={**os.environ, **environment})


# Compose


def posthorn_services():
    return {name: service for name, service in SERVICES.items() if "posthorn" in service["image"]}


def test_compose_topology():
    """Three brokers, and as many of each role as the documents say."""
    assert [name for name in SERVICES if SERVICES[name]["image"].startswith("apache/kafka")] == [
        "kafka-1", "kafka-2", "kafka-3",
    ]
    assert {role: SERVICES[role].get("scale", 1) for role in ROLES} == {
        "ingress": 2, "delivery": 3, "bounce": 1, "metrics": 1,
    }
    for role in ROLES:
        assert SERVICES[role]["command"] == ["run", "--role", role]
        assert SERVICES[role]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    assert SERVICES["topics"]["command"] == ["topics", "apply"]


def test_compose_scales():
    """Nothing that can be there only once on a service that can be there often."""
    for name, service in SERVICES.items():
        assert "container_name" not in service, name
    for role in ROLES:
        assert "ports" not in SERVICES[role]
        assert "hostname" not in SERVICES[role]
        assert all(volume.endswith(":ro") for volume in SERVICES[role]["volumes"])


def test_compose_references():
    """Every file, volume and service that is named is there."""
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", [])) <= set(SERVICES), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), volume
            else:
                assert source in COMPOSE["volumes"], volume
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_compose_brokers():
    """The brokers know each other, and what a 250 rests on is what G1 asks for."""
    voters = []
    for number in (1, 2, 3):
        settings = SERVICES[f"kafka-{number}"]["environment"]
        assert settings["KAFKA_NODE_ID"] == number
        assert settings["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://kafka-{number}:9092"
        assert settings["KAFKA_MIN_INSYNC_REPLICAS"] == 2
        assert settings["KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR"] == 3
        assert settings["KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE"] == "false"
        assert settings["KAFKA_LOG_DIRS"] == SERVICES[f"kafka-{number}"]["volumes"][0].split(":")[1]
        voters.append(f"{number}@kafka-{number}:9093")
        assert len(settings["CLUSTER_ID"]) == 22
    assert SERVICES["kafka-1"]["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"] == ",".join(voters)


@pytest.mark.parametrize("role", ROLES)
def test_compose_configuration(role):
    """A node of each role starts with the configuration and the environment that compose gives it."""
    environment = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value))
        for name, value in SERVICES[role]["environment"].items()
    }
    result = check_config(ROOT / "ops/config/cluster/posthorn.yaml", POSTHORN_ROLES=role, **environment)
    assert result.returncode == 0, result.stderr
    configuration = yaml.safe_load((ROOT / "ops/config/cluster/posthorn.yaml").read_text())
    assert configuration["kafka"]["bootstrap"].split(",") == ["kafka-1:9092", "kafka-2:9092", "kafka-3:9092"]


def test_compose_commands():
    """The program takes the commands that the services and the health checks give it."""
    for name, service in posthorn_services().items():
        result = run(BINARY, *service["command"], "--help", check=False)
        assert result.returncode == 0, (name, result.stderr)
        health = service.get("healthcheck", {}).get("test")
        if health:
            assert health[:2] == ["CMD", "/usr/bin/posthorn"]
            assert run(BINARY, *health[2:], "--help", check=False).returncode == 0


def test_balancer():
    """It finds nodes by the service's name, asks for readiness, and speaks PROXY to a listener that expects it."""
    text = (ROOT / "ops/docker/haproxy.cfg").read_text()
    configuration = yaml.safe_load((ROOT / "ops/config/cluster/posthorn.yaml").read_text())
    listener = configuration["listeners"][0]
    assert listener["proxy-protocol-from"] and listener["address"] == "::"
    server = re.search(r"server-template \S+ (\d+) (\S+):(\d+)", text)
    assert server[2] == "ingress" and int(server[3]) == listener["port"]
    assert "send-proxy-v2" in text and "/health/ready" in text
    assert f"check port {configuration['admin']['address'].split(':')[1]}" in text
    assert re.search(r"frontend smtp\n\s+bind :(\d+)", text)[1] == SERVICES["balancer"]["ports"][0].split(":")[-1]


def test_balancer_syntax():
    result = run(tool("haproxy"), "-c", "-f", ROOT / "ops/docker/haproxy.cfg", check=False)
    assert result.returncode == 0, result.stderr


def test_dockerfile():
    """The health check is a command of the program, and needs no shell."""
    text = (ROOT / "ops/docker/Dockerfile").read_text()
    command = json.loads(re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.M)[1])
    assert command[0] == "/usr/bin/posthorn"
    assert run(BINARY, *command[1:], "--help", check=False).returncode == 0
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", text, re.M)[1])
    assert entry == ["/usr/bin/posthorn"]
    user = re.findall(r"^USER (\S+)$", text, re.M)
    assert user and user[-1] not in ("root", "0", "0:0")
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert kept == {"Package.swift", "Sources", "Tests"}


def test_without_ipv6(tmp_path, at_end):
    """A node that listens on every address starts where no interface has IPv6, as in a container."""
    # A process namespace of its own, so that all of it ends with the first.
    namespace = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
    if os.geteuid() != 0 or run(*namespace, "true", check=False).returncode != 0:
        pytest.skip("network namespaces are for root")
    node = Node(tmp_path)
    node.config["listeners"][0]["address"] = "::"
    (tmp_path / "token").write_text("s3cret\n")
    node.config["admin"] = {"address": "[::]:9925", "token-file": str(tmp_path / "token")}
    node.write_config()
    # Interfaces come up only after IPv6 is switched off, so that they never have such an address. The resolver goes by
    # the addresses of interfaces other than loopback.
    script = (
        'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up; '
        'ip link add net0 type bridge && ip address add 192.0.2.1/24 dev net0 && ip link set net0 up || exit 75; '
        '"$0" run -c "$1" & '
        'while ! "$0" health --admin 127.0.0.1:9925; do kill -0 $! || exit; sleep 0.2; done; kill $!; wait $!'
    )
    process = Process([*namespace, "sh", "-c", script, BINARY, node.config_file], tmp_path / "output")
    at_end.callback(process.discard)
    wait_until(lambda: not process.is_running, "the node is ready, and ends")
    if process.child.returncode == 75:
        pytest.skip("the kernel makes no bridges")
    assert process.child.returncode == 0, process.text
    assert "ready" in process.text.splitlines(), process.text
    assert f":{node.port}" in process.text


# Prometheus and Grafana


def registered_metrics():
    """Every metric that the program can have."""
    names = set()
    for file in (ROOT / "Sources/Node").rglob("*.swift"):
        names |= set(re.findall(r'"((?:posthorn|process)_[a-z_]+)"', file.read_text()))
    return names


def expressions():
    alerts = yaml.safe_load((ROOT / "ops/prometheus/alerts.yml").read_text())
    for group in alerts["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    dashboard = json.loads((ROOT / "ops/dashboards/posthorn.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_metrics_exist():
    """Alerts and panels ask for metrics that the program has, and for roles that there are."""
    known = registered_metrics()
    assert len(known) > 20
    count = 0
    for where, expression in expressions():
        for name in re.findall(r"\b(?:posthorn|process)_[a-z_]+", expression):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in known or base in known, (where, name)
            count += 1
        for role in re.findall(r'role="(\w+)"', expression):
            assert role in ROLES, where
    assert count > 20


def test_alerts():
    """Each says how urgent it is and what it means."""
    alerts = yaml.safe_load((ROOT / "ops/prometheus/alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_scraping():
    """Every role is scraped where its admin listener is."""
    prometheus = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())
    nodes = prometheus["scrape_configs"][0]["dns_sd_configs"][0]
    assert nodes["names"] == ROLES and set(nodes["names"]) <= set(SERVICES)
    configuration = yaml.safe_load((ROOT / "ops/config/cluster/posthorn.yaml").read_text())
    assert configuration["admin"]["address"].endswith(f":{nodes['port']}")


def test_prometheus_syntax(tmp_path):
    promtool = tool("promtool")
    assert run(promtool, "check", "config", ROOT / "ops/prometheus/prometheus.yml").returncode == 0
    for number, (_, expression) in enumerate(expressions()):
        rules = tmp_path / f"{number}.yml"
        expression = expression.replace("$__rate_interval", "1m")
        rules.write_text(json.dumps({"groups": [{"name": "g", "rules": [{"record": "r", "expr": expression}]}]}))
        assert run(promtool, "check", "rules", rules).returncode == 0


# Kubernetes


def documents(directory=KUBERNETES):
    for file in sorted(directory.glob("*.yaml")):
        if file.name in ("kustomization.yaml", "posthorn.yaml"):
            continue
        for document in yaml.safe_load_all(file.read_text()):
            yield file, document


def of_kind(kind):
    return {document["metadata"]["name"]: document for _, document in documents() if document["kind"] == kind}


def pod_specs():
    for kind in ("Deployment", "Job"):
        for name, document in of_kind(kind).items():
            yield name, document["spec"]["template"]["spec"]


def test_kustomization():
    """Every manifest is listed, but for the example of a secret; every listed file is there."""
    for directory in (KUBERNETES, KUBERNETES / "keda"):
        listed = set(yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"])
        present = {file.name for file in directory.glob("*.yaml")}
        assert listed == present - {"kustomization.yaml", "posthorn.yaml", "secret.example.yaml"}


def test_no_variables_of_services():
    """A service's variables, POSTHORN_SMTP_PORT and the like, would be taken for settings that do not exist."""
    names = dict(pod_specs())
    assert len(names) == len(ROLES) + 1
    assert not [name for name, spec in names.items() if spec["enableServiceLinks"] is not False]


def test_references():
    """Every ConfigMap, Secret and key that a pod wants exists."""
    generated = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["configMapGenerator"]
    maps = {item["name"]: set(item["files"]) for item in generated}
    secrets = {name: set(document["stringData"]) for name, document in of_kind("Secret").items()}
    for name, spec in pod_specs():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes), name
        for volume in volumes.values():
            if "configMap" in volume:
                keys = {item["key"] for item in volume["configMap"]["items"]}
                assert keys <= maps[volume["configMap"]["name"]], name
            else:
                keys = {item["key"] for item in volume["secret"]["items"]}
                assert keys <= secrets[volume["secret"]["secretName"]], name
    for _, document in documents(KUBERNETES / "keda"):
        for reference in document["spec"].get("secretTargetRef", []):
            assert reference["key"] in secrets[reference["name"]]


def test_selectors():
    """Services, budgets, spreading and autoscalers mean the pods they are named for."""
    deployments = of_kind("Deployment")
    assert set(deployments) == {f"posthorn-{role}" for role in ROLES}

    def labels(name):
        return deployments[name]["spec"]["template"]["metadata"]["labels"]

    for name, deployment in deployments.items():
        spec = deployment["spec"]["template"]["spec"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels(name)
        assert of_kind("PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == labels(name)
        for constraint in spec["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == labels(name)
        role = name.removeprefix("posthorn-")
        assert spec["containers"][0]["args"] == ["run", "--role", role]
        assert labels(name)["app.kubernetes.io/component"] == role
    services = of_kind("Service")
    assert services["posthorn-smtp"]["spec"]["selector"] == labels("posthorn-ingress")
    assert services["posthorn-smtp"]["spec"]["externalTrafficPolicy"] == "Local"
    assert services["posthorn-queue"]["spec"]["selector"] == labels("posthorn-metrics")
    scaled = [document["spec"]["scaleTargetRef"]["name"] for document in of_kind("HorizontalPodAutoscaler").values()]
    scaled += [
        document["spec"]["scaleTargetRef"]["name"]
        for _, document in documents(KUBERNETES / "keda") if document["kind"] == "ScaledObject"
    ]
    assert sorted(scaled) == ["posthorn-delivery", "posthorn-ingress"]
    # An autoscaler and a number in the manifest would fight; keda takes the other one out.
    assert "replicas" not in deployments["posthorn-ingress"]["spec"]


def test_ports():
    """A port that a service or a probe names is the container's, and the configuration listens there."""
    configuration = yaml.safe_load((KUBERNETES / "posthorn.yaml").read_text())
    listening = {listener["name"]: listener["port"] for listener in configuration["listeners"]}
    assert {listener["address"] for listener in configuration["listeners"]} == {"::"}
    listening["admin"] = int(configuration["admin"]["address"].split(":")[1])
    for name, deployment in of_kind("Deployment").items():
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports.items() <= listening.items(), name
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        assert int(annotations["prometheus.io/port"]) == ports["admin"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
    for service in of_kind("Service").values():
        role = service["spec"]["selector"]["app.kubernetes.io/component"]
        ports = of_kind("Deployment")[f"posthorn-{role}"]["spec"]["template"]["spec"]["containers"][0]["ports"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in ports}


def test_probes(node):
    """A running node serves what the probes and the annotations ask for."""
    paths = set()
    for deployment in of_kind("Deployment").values():
        template = deployment["spec"]["template"]
        paths.add(template["metadata"]["annotations"]["prometheus.io/path"])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            paths.add(template["spec"]["containers"][0][probe]["httpGet"]["path"])
    assert paths == {"/health/live", "/health/ready", "/metrics"}
    for path in paths:
        assert node.get(path)[0] == 200, path


@pytest.mark.parametrize("role", ROLES)
def test_configuration(role, tmp_path):
    """A node of each role starts with it, given the secret's files."""
    text = (KUBERNETES / "posthorn.yaml").read_text()
    secret = of_kind("Secret")["posthorn"]["stringData"]
    for key, value in secret.items():
        (tmp_path / key).write_text(value)
    file = tmp_path / "posthorn.yaml"
    assert "/run/secrets/posthorn/" in text
    file.write_text(text.replace("/run/secrets/posthorn/", f"{tmp_path}/"))
    result = check_config(file, POSTHORN_ROLES=role)
    assert result.returncode == 0, result.stderr
    assert f"roles      {role}\n" in result.stdout and "its log in Kafka at kafka-bootstrap" in result.stdout


def test_autoscaling_names():
    """The lag that nodes are scaled by is that of the group and topic the nodes use."""
    scaled = next(document for _, document in documents(KUBERNETES / "keda") if document["kind"] == "ScaledObject")
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    engine = (ROOT / "Sources/Node/Delivery/DeliveryEngine.swift").read_text()
    assert f'GroupID("{trigger["consumerGroup"]}")' in engine
    records = (ROOT / "Sources/Cluster/Log/Record.swift").read_text()
    assert f'Topic("{trigger["topic"]}")' in records
    configuration = yaml.safe_load((KUBERNETES / "posthorn.yaml").read_text())
    assert trigger["bootstrapServers"] == configuration["kafka"]["bootstrap"]
    assert scaled["spec"]["maxReplicaCount"] <= configuration["kafka"]["partitions"]


@pytest.mark.parametrize("components", [[], ["keda"], ["proxy-protocol"], ["keda", "proxy-protocol"]])
def test_builds(components, tmp_path):
    """Kustomize makes manifests of it, with every choice of components."""
    kubectl = tool("kubectl")
    shutil.copytree(KUBERNETES, tmp_path / "base")
    relative = [f"base/{component}" for component in components]
    (tmp_path / "kustomization.yaml").write_text(
        json.dumps({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["base"],
            "components": relative,
        })
    )
    result = subprocess.run([kubectl, "kustomize", tmp_path], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    built = [document for document in yaml.safe_load_all(result.stdout)]
    service = next(item for item in built if item["metadata"]["name"] == "posthorn-smtp")
    proxied = "proxy-protocol" in components
    assert service["spec"]["ports"][0]["targetPort"] == ("smtp-proxy" if proxied else "smtp")
    assert service["spec"]["externalTrafficPolicy"] == ("Cluster" if proxied else "Local")
    delivery = next(i for i in built if i["kind"] == "Deployment" and i["metadata"]["name"] == "posthorn-delivery")
    assert ("replicas" in delivery["spec"]) == ("keda" not in components)
    assert delivery["spec"]["template"]["spec"]["containers"][0]["image"].startswith("registry.example/posthorn:")
