//! YAML as JSON values, which are pleasant to look into. Tags and aliases are refused: none of our files
//! needs them.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Number, Value};

/// The documents of a file of the project.
#[track_caller]
pub fn documents(name: &str) -> Vec<Value> {
    let text = super::text(name);
    let documents = Yaml::load_from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    documents.iter().map(|document| value(document, name)).collect()
}

/// The one document of a file.
#[track_caller]
pub fn document(name: &str) -> Value {
    let mut documents = documents(name);
    assert_eq!(documents.len(), 1, "{name} holds one document");
    documents.remove(0)
}

#[track_caller]
fn value(yaml: &Yaml<'_>, place: &str) -> Value {
    match yaml {
        Yaml::Value(scalar) => self::scalar(scalar),
        Yaml::Sequence(items) => items.iter().map(|item| value(item, place)).collect(),
        Yaml::Mapping(entries) => {
            let entries = entries.iter().map(|(key, item)| {
                let key = key.as_str().unwrap_or_else(|| panic!("{place}: the key {key:?} is no text"));
                (key.to_owned(), value(item, place))
            });
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Yaml::Representation(..) | Yaml::Tagged(..) | Yaml::Alias(_) | Yaml::BadValue => {
            panic!("{place}: {yaml:?} is not plain YAML")
        }
    }
}

fn scalar(scalar: &Scalar<'_>) -> Value {
    match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(claim) => Value::Bool(*claim),
        Scalar::Integer(number) => Value::from(*number),
        Scalar::FloatingPoint(number) => Number::from_f64(number.0).map_or(Value::Null, Value::Number),
        Scalar::String(text) => Value::from(text.as_ref()),
    }
}

/// The items of a list; none, if it is missing.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub fn texts(value: &Value) -> Vec<&str> {
    items(value).iter().map(|item| item.as_str().expect("a list of texts")).collect()
}
