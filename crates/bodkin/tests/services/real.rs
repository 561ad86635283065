//! Real servers.

use crate::kit::{Lab, args, fetch, quoted};

#[test]
fn root_redis_keeps_what_is_set_in_a_volume_between_runs() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let volume = s.text("{cacheVolume(key:\"redis-data\"){id}}");
    let redis = s.text(&format!(
        "{{container{{from(address:\"redis:7\"){{withMountedCache(path:\"/data\",cache:{}){{withWorkdir(path:\"/data\"){{withExposedPort(port:6379){{withExec(args:{}){{asService{{id",
        quoted(&volume),
        args(&["redis-server", "--save", "", "--appendonly", "yes", "--dir", "/data", "--protected-mode", "no"]),
    ));
    let cli = |s: &crate::kit::Session, command: &[&str]| {
        let mut all = vec!["redis-cli", "-h", "redis"];
        all.extend(command);
        s.text(&format!(
            "{{container{{from(address:\"redis:7\"){{withServiceBinding(alias:\"redis\",service:{}){{withExec(args:{}){{stdout",
            quoted(&redis),
            args(&all)
        ))
    };
    assert_eq!(cli(&s, &["set", "greeting", "hello"]).trim(), "OK");
    s.get(&format!(
        "{{loadServiceFromID(id:{}){{stop}}}}",
        quoted(&redis)
    ));
    s.close();
    let s = lab.session();
    assert_eq!(cli(&s, &["get", "greeting"]).trim(), "hello");
    s.close();
}

#[test]
fn root_mariadb_is_queried_by_another_container() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let db = s.text(
        "{container{from(address:\"mariadb:10.11.2\"){withEnvVariable(name:\"MARIADB_ROOT_PASSWORD\",value:\"pw\"){\
         withEnvVariable(name:\"MARIADB_DATABASE\",value:\"shop\"){withExposedPort(port:3306){withExec(args:[],useEntrypoint:true){asService{id}",
    );
    let query = "CREATE TABLE t(n int); INSERT INTO t VALUES (1),(41); SELECT SUM(n) FROM t";
    let sum = s.text(&format!(
        "{{container{{from(address:\"mariadb:10.11.2\"){{withServiceBinding(alias:\"db\",service:{}){{withExec(args:{}){{stdout",
        quoted(&db),
        args(&["mariadb", "-h", "db", "-uroot", "-ppw", "-N", "shop", "-e", query])
    ));
    assert_eq!(sum.trim(), "42");
    s.close();
}

#[test]
fn root_postgres_is_ready_when_its_label_says_so() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let db = s.text(&format!(
        "{{container{{from(address:\"postgres:16\"){{withEnvVariable(name:\"POSTGRES_PASSWORD\",value:\"pw\"){{\
         withLabel(name:\"bodkin.ready.exec\",value:{}){{withLabel(name:\"bodkin.ready.timeout\",value:\"60s\"){{\
         withExec(args:[],useEntrypoint:true){{asService{{id",
        quoted("pg_isready -h 127.0.0.1 -U postgres")
    ));
    let answer = s.text(&format!(
        "{{container{{from(address:\"postgres:16\"){{withServiceBinding(alias:\"db\",service:{}){{withEnvVariable(name:\"PGPASSWORD\",value:\"pw\"){{withExec(args:{}){{stdout",
        quoted(&db),
        args(&["psql", "-h", "db", "-U", "postgres", "-tAc", "select 6*7"])
    ));
    assert_eq!(answer.trim(), "42");
    s.close();
}

#[test]
fn root_python_is_reached_from_this_machine_through_a_tunnel() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let web = s.text(&format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withNewFile(path:\"/srv/index.html\",contents:\"from python\"){{withWorkdir(path:\"/srv\"){{\
         withExposedPort(port:8080){{withExec(args:{}){{asService{{id",
        args(&["python3", "-m", "http.server", "8080"])
    ));
    let tunnel = s.text(&format!("{{host{{tunnel(service:{}){{id", quoted(&web)));
    s.get(&format!(
        "{{loadServiceFromID(id:{}){{start}}}}",
        quoted(&tunnel)
    ));
    let endpoint = s.text(&format!(
        "{{loadServiceFromID(id:{}){{endpoint}}}}",
        quoted(&tunnel)
    ));
    assert_eq!(fetch(&endpoint).expect("an answer"), "from python");
    s.close();
    assert!(
        fetch(&endpoint).is_err(),
        "the port is closed with the session"
    );
}

#[test]
fn root_two_nginx_find_each_other_by_name() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    // Neither recipe can name the other: they only share the names.
    let server = |own: &str, other: &str| {
        let config = format!(
            "events {{}}\nhttp {{ server {{ listen 80; location = /own {{ return 200 '{own}\\n'; }}\n\
             location = /other {{ resolver GATEWAY; set $there http://{other}/own; proxy_pass $there; }} }} }}\n"
        );
        let start = "sed -i \"s/GATEWAY/$(sed -n 's/^nameserver //p' /etc/resolv.conf)/\" /etc/nginx/nginx.conf; exec nginx -g 'daemon off;'";
        let container = format!(
            "{{container{{from(address:\"nginx:1.25.3\"){{withNewFile(path:\"/etc/nginx/nginx.conf\",contents:{}){{withExposedPort(port:80){{\
             withExec(args:{}){{asService{{withHostname(hostname:{}){{id",
            quoted(&config),
            args(&["sh", "-c", start]),
            quoted(own)
        );
        let id = s.text(&container);
        s.get(&format!(
            "{{loadServiceFromID(id:{}){{start}}}}",
            quoted(&id)
        ));
        id
    };
    let (a, b) = (server("left", "right"), server("right", "left"));
    for (id, other) in [(&a, "right"), (&b, "left")] {
        let got = s.text(&format!(
            "{{container{{from(address:\"alpine:3.20.2\"){{withServiceBinding(alias:\"it\",service:{}){{withExec(args:{}){{stdout",
            quoted(id),
            args(&["curl", "-sS", "-m", "20", "http://it/other"])
        ));
        assert_eq!(got.trim(), other);
    }
    s.close();
}

#[test]
fn root_docker_runs_as_a_service() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let docker = s.text(&format!(
        "{{container{{from(address:\"docker:24-dind\"){{withoutEntrypoint{{withMountedTemp(path:\"/var/lib/docker\"){{withExposedPort(port:2375){{\
         withExec(args:{},insecureRootCapabilities:true){{asService{{id",
        args(&["dockerd", "--host=tcp://0.0.0.0:2375", "--tls=false"])
    ));
    let said = s.text(&format!(
        "{{container{{from(address:\"docker:cli\"){{withServiceBinding(alias:\"docker\",service:{}){{withEnvVariable(name:\"DOCKER_HOST\",value:\"tcp://docker:2375\"){{\
         withExec(args:{}){{stdout",
        quoted(&docker),
        args(&["docker", "info", "--format", "{{.ServerVersion}} {{.Driver}}"])
    ));
    assert!(said.contains("overlay"), "{said}");
    s.close();
}
