//! A registry that is a service of the session.

use crate::kit::{Lab, args, quoted};

#[test]
fn root_images_go_to_and_come_from_a_registry_that_is_a_service() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session_of("v0.21.0");
    let volume = s.text("{cacheVolume(key:\"registry-data\"){id");
    let registry = s.text(&format!(
        "{{container{{from(address:\"registry:2\"){{withMountedCache(path:\"/var/lib/registry\",cache:{}){{withExposedPort(port:5000){{asService(useEntrypoint:true){{id",
        quoted(&volume)
    ));
    let host = s.text(&format!(
        "{{loadServiceFromID(id:{}){{hostname",
        quoted(&registry)
    ));
    let service = quoted(&registry);
    let address = format!("{host}:5000/team/app:v1");
    // A base of another registry, and a layer of our own.
    let published = s.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withNewFile(path:\"/mine\",contents:\"m\"){{publish(address:{},registryService:{service})",
        quoted(&address)
    ));
    assert!(
        published.starts_with(&format!("{address}@sha256:")),
        "{published}"
    );
    let back = format!(
        "{{container{{from(address:{},registryService:{service})",
        quoted(&address)
    );
    assert_eq!(s.text(&format!("{back}{{imageRef")), published);
    let again = s.text(&format!("{back}{{id"));

    // An image of it is a base like any other.
    let next = format!("{host}:5000/team/next:v1");
    s.text(&format!(
        "{back}{{withNewFile(path:\"/more\",contents:\"x\"){{publish(address:{},registryService:{service})",
        quoted(&next)
    ));
    let other = format!(
        "{{container{{from(address:\"other:5000/team/app:v1\",registryService:{service}){{imageRef"
    );
    let error = s.error(&other);
    assert!(
        error.contains("is of the registry `other:5000`")
            && error.contains("use the service's host name"),
        "{error}"
    );
    let missing = format!(
        "{{container{{from(address:{},registryService:{service}){{imageRef",
        quoted(&format!("{host}:5000/team/none:v1"))
    );
    let error = s.error(&missing);
    assert!(error.contains("has no such image"), "{error}");
    s.close();

    // A later session has the recipe: it starts the registry again.
    let s = lab.session_of("v0.21.0");
    let files = format!(
        "{{loadContainerFromID(id:{}){{withExec(args:{}){{stdout",
        quoted(&again),
        args(&["sh", "-c", "cat /mine; ls /"])
    );
    let said = s.text(&files);
    assert!(said.starts_with('m') && said.contains("mine"), "{said}");
    s.close();
}
