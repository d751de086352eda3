//! `openapi.v2.Document`, the protobuf form of the version 2 document: the messages and fields that our
//! documents use, by their published numbers, and the way there from JSON.

use serde_json::Value;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PathItem {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Operation {
    #[prost(string, tag = "3")]
    description: String,
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    response_code: Vec<NamedResponseValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedResponseValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body_parameter: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query_parameter_sub_schema: Option<QueryParameter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    kind: String,
}

/// `Definitions` and `Properties`: both are lists of named schemas.
#[derive(Clone, PartialEq, prost::Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    enumerated: Vec<Any>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    kind: Option<TypeItem>,
    #[prost(message, optional, tag = "23")]
    items: Option<ItemsItem>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TypeItem {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ItemsItem {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

/// A value as YAML text, of which JSON is a part.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn any(value: &Value) -> Any {
    Any { yaml: value.to_string() }
}

fn extensions(object: &Value) -> Vec<NamedAny> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| NamedAny { name: name.clone(), value: Some(any(value)) })
        .collect()
}

/// The message of a version 2 document in JSON.
pub(super) fn document(document: &Value) -> Document {
    let paths = document["paths"].as_object().into_iter().flatten();
    Document {
        swagger: text(&document["swagger"]),
        info: Some(Info {
            title: text(&document["info"]["title"]),
            version: text(&document["info"]["version"]),
        }),
        paths: Some(Paths {
            path: paths
                .map(|(name, item)| NamedPathItem { name: name.clone(), value: Some(path_item(item)) })
                .collect(),
        }),
        definitions: Some(schemas(&document["definitions"])),
    }
}

fn path_item(item: &Value) -> PathItem {
    let method = |name: &str| item.get(name).map(operation);
    PathItem {
        get: method("get"),
        put: method("put"),
        post: method("post"),
        delete: method("delete"),
        patch: method("patch"),
    }
}

fn operation(operation: &Value) -> Operation {
    let parameter = |one: &Value| ParametersItem {
        parameter: Some(Parameter {
            non_body_parameter: Some(NonBodyParameter {
                query_parameter_sub_schema: Some(QueryParameter {
                    place: text(&one["in"]),
                    name: text(&one["name"]),
                    kind: text(&one["type"]),
                }),
            }),
        }),
    };
    let response = |(code, value): (&String, &Value)| NamedResponseValue {
        name: code.clone(),
        value: Some(ResponseValue { response: Some(Response { description: text(&value["description"]) }) }),
    };
    let responses = operation["responses"].as_object().into_iter().flatten();
    Operation {
        description: text(&operation["description"]),
        operation_id: text(&operation["operationId"]),
        parameters: operation["parameters"].as_array().into_iter().flatten().map(parameter).collect(),
        responses: Some(Responses { response_code: responses.map(response).collect() }),
        vendor_extension: extensions(operation),
    }
}

fn schemas(map: &Value) -> Schemas {
    let named =
        |(name, value): (&String, &Value)| NamedSchema { name: name.clone(), value: Some(schema(value)) };
    Schemas { additional_properties: map.as_object().into_iter().flatten().map(named).collect() }
}

fn schema(value: &Value) -> Schema {
    let list = |name: &str| value[name].as_array().into_iter().flatten();
    let additional = value.get("additionalProperties").filter(|inner| inner.is_object());
    Schema {
        reference: text(&value["$ref"]),
        format: text(&value["format"]),
        description: text(&value["description"]),
        required: list("required").map(text).collect(),
        enumerated: list("enum").map(any).collect(),
        additional_properties: additional
            .map(|inner| Box::new(AdditionalProperties { schema: Some(Box::new(schema(inner))) })),
        kind: value["type"].as_str().map(|kind| TypeItem { value: vec![kind.to_owned()] }),
        items: value.get("items").map(|inner| ItemsItem { schema: vec![schema(inner)] }),
        properties: value.get("properties").map(schemas),
        vendor_extension: extensions(value),
    }
}
